"""Which folders are lost with the machine."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from auricle.store.targets.parts import disks


@pytest.mark.parametrize(("mounts", "is_own"), [
    ([("/", "overlay")], True),  # a container
    ([("/", "overlay"), ("/workspace", "xfs")], True),  # its volume on the same host
    ([("/", "overlay"), ("/workspace", "fuse", "mfs#eu-1.runpod.net:9421")], False),  # RunPod's network volume
    ([("/", "overlay"), ("/workspace", "fuse")], True),
    ([("/", "overlay"), ("/workspace", "fuse.gocryptfs")], True),
    ([("/", "virtiofs")], True),  # a machine whose own root comes so
    ([("/", "overlay"), ("/workspace", "9p")], True),  # gVisor's
    ([("/", "ext4"), ("/workspace", "virtiofs")], False),  # Lambda's
    ([("/", "ext4"), ("/workspace", "nfs4")], False),
    ([("/", "ext4"), ("/workspace", "fuse.sshfs")], False),
    ([("/", "fuse.fuse-overlayfs")], True),  # podman without root
    ([("/", "ext4"), ("/workspace", "fuseblk")], True),  # NTFS
    ([("/", "ext4"), ("/work", "nfs")], True),  # another folder that begins alike
    ([("/", "ext4"), ("/workspace", "nfs"), ("/workspace/runs", "tmpfs")], True),
    ([("/", "ext4"), ("/workspace", "ext4"), ("/workspace", "nfs")], False),  # mounted over it
    ([("/", "ext4"), ("/workspace", "nfs"), ("/workspace", "ext4")], True),
    ([("/", "something new")], True),
    ([], True),
])
def test_the_innermost_mount_decides(monkeypatch, mounts, is_own):
    found = [SimpleNamespace(mountpoint=point, fstype=kind, device="".join(device)) for point, kind, *device in mounts]
    monkeypatch.setattr(disks.psutil, "disk_partitions", lambda all: found)
    assert disks.is_own_disk(Path("/workspace/runs/voxformer")) is is_own


def test_a_link_is_followed(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    found = [SimpleNamespace(mountpoint="/", fstype="ext4", device=""),
             SimpleNamespace(mountpoint=str(tmp_path / "far"), fstype="nfs", device="")]
    monkeypatch.setattr(disks.psutil, "disk_partitions", lambda all: found)
    assert not disks.is_own_disk(tmp_path / "link" / "runs")
    assert disks.is_own_disk(tmp_path / "near")


def test_the_system_is_on_a_disk_of_this_machine():
    assert disks.is_own_disk(Path("/usr"))

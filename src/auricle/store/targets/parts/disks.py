"""Whether a folder is lost with the machine, by the file system that is mounted there."""

from pathlib import Path

import psutil

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "lustre", "beegfs", "gpfs", "glusterfs", "afs",
           "wekafs")
LOCAL_FUSE = ("fuseblk", "fuse.fuse-overlayfs")
"""The others of FUSE reach another machine: sshfs, rclone, s3fs, JuiceFS, MooseFS (RunPod's network volumes) …"""


def is_own_disk(folder: Path) -> bool:
    """Whether it lies on this machine's disks or in its memory; a file system that is not known counts as such."""
    path = folder.expanduser().resolve()
    mounts = [(len(mount.mountpoint), number, mount.fstype)
              for number, mount in enumerate(psutil.disk_partitions(all=True)) if path.is_relative_to(mount.mountpoint)]
    kind = max(mounts, default=(0, 0, ""))[2]  # the innermost, and the last where one hides another
    return kind not in NETWORK and (not kind.startswith("fuse") or kind in LOCAL_FUSE)

"""Whether a folder is lost with the machine, by the file system that is mounted there."""

from pathlib import Path, PurePath

import psutil

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "virtiofs", "ceph", "lustre", "beegfs", "gpfs", "glusterfs", "afs", "wekafs",
           "fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.juicefs", "fuse.goofys", "fuse.geesefs", "fuse.gcsfuse",
           "fuse.mountpoint-s3", "fuse.blobfuse2", "fuse.glusterfs", "fuse.ceph-fuse", "fuse.moosefs")
"""File systems whose bytes lie on another machine; virtiofs is Lambda's."""
MOOSE = ("mfs#", "mfsmount")
"""How the device of MooseFS begins (RunPod's network volumes), whose type is `fuse` alone."""


def is_own_disk(folder: Path) -> bool:
    """Whether it lies on this machine's disks or in its memory; a file system that is not known counts as such, and
    so does the one that the system itself is on."""
    path = folder.expanduser().resolve()
    mounts = [(len(mount.mountpoint), number, mount)
              for number, mount in enumerate(psutil.disk_partitions(all=True)) if path.is_relative_to(mount.mountpoint)]
    if not mounts:
        return True
    mount = max(mounts)[2]  # the innermost, and the last where one hides another
    is_network = mount.fstype in NETWORK or (mount.fstype == "fuse" and mount.device.startswith(MOOSE))
    return not is_network or PurePath(mount.mountpoint) == PurePath("/")

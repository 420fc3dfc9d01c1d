"""Memory that the trainer fills and the writer process reads, made once for all saves."""

import contextlib
import mmap
import os
import tempfile


class Buffer:
    """`size` bytes (at least one) of anonymous shared memory, resident from the start.

    The first touch of a page costs ten times what copying into it does later, so it is paid here and not in a save.
    /dev/shm is not used: containers often give it 64 MB.
    """

    def __init__(self, size: int, fd: int | None = None) -> None:
        """`fd`: memory that another process made. Raises OSError when there is not enough."""
        self.fd = _allocated(size) if fd is None else fd
        self.size = size
        self.memory = memoryview(mmap.mmap(self.fd, size))
        if fd is None:
            pages = self.memory[:: mmap.PAGESIZE]
            pages[:] = bytes(len(pages))

    def close(self) -> None:
        """Gives the memory back, or leaves that to the last array that still looks at it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        with contextlib.suppress(BufferError):
            self.memory.release()


def _allocated(size: int) -> int:
    fd = _anonymous()
    try:
        os.posix_fallocate(fd, 0, size)  # without it a full disk or memory would be a bus error at the first touch
    except OSError:
        os.close(fd)
        raise
    return fd


def _anonymous() -> int:
    try:
        return os.memfd_create("auricle-save")
    except (AttributeError, OSError):  # an old kernel or a sandbox that forbids it
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())

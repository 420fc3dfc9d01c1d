"""Faults on demand: damaged files, a process that dies at the n-th storage call, full disks, power cuts.

    damage(folder, rng)                     one random damage to one file of a folder
    kill_at_call(n)                         this process dies at its n-th storage call
    crash_points(prepare, run)              … for every n, in forked children
    kill_at(step, phase)                    this process dies while it trains
    disk_full(failures)                     writes fail for lack of space
    tmpfs(folder, size)                     a small real disk (root)
    ext4_loop(folder)                       a disk whose power can be cut (root)
"""

import errno
import fcntl
import io
import itertools
import os
import random
import signal
import struct
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

# -- damage -----------------------------------------------------------------------------------------------------------


def flip_bit(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def overwrite(path: Path, rng: random.Random) -> None:
    """Puts up to 4 KB of other bytes somewhere, as a lost sector does; the size stays."""
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    stop = min(len(content), start + rng.randint(1, 4096))
    content[start:stop] = bytes(byte ^ rng.randint(1, 255) for byte in content[start:stop])
    path.write_bytes(content)


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


def damage(folder: Path, rng: random.Random) -> str:
    """One random damage to one random file that is not empty. → what was done"""
    path = rng.choice([path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size])
    kind = rng.choice([flip_bit, truncate, overwrite, delete])
    kind(path, rng)
    return f"{kind.__name__} {path.name}"


# -- storage calls ----------------------------------------------------------------------------------------------------

CALLS = ("fsync", "rename", "replace", "link", "mkdir", "unlink", "rmdir")

Hook = Callable[[str, str], None]
"""(call, "before" or "after"); a write has "middle" too, when half of it has reached the file."""


class _Stream:
    def __init__(self, stream: Any, hook: Hook) -> None:
        self._stream, self._hook = stream, hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def write(self, content: Any) -> int:
        self._hook("write", "before")
        half = len(content) // 2
        self._stream.write(content[:half])
        self._stream.flush()
        self._hook("write", "middle")
        self._stream.write(content[half:])
        self._stream.flush()
        self._hook("write", "after")
        return len(content)


@contextmanager
def watched(hook: Hook) -> Iterator[None]:
    """Calls `hook` around every storage call of this process: `CALLS` of os, opening a file to write, each write."""

    def around(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            hook(name, "before")
            result = call(*args, **kwargs)
            hook(name, "after")
            return result

        return wrapped

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not set(mode) & set("wax+"):
            return real_open(file, mode, *args, **kwargs)
        return _Stream(around("open", real_open)(file, mode, *args, **kwargs), hook)

    real_open = io.open
    patches = [mock.patch.object(os, name, around(name, getattr(os, name))) for name in CALLS]
    with mock.patch.object(io, "open", opened):  # what Path.open calls
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()


def kill_at_call(n: int) -> Any:
    """A context in which this process kills itself at moment `n` (from 1): before, amid or after a storage call."""
    moments = itertools.count(1)

    def hook(call: str, moment: str) -> None:
        if next(moments) == n:
            os.kill(os.getpid(), signal.SIGKILL)

    return watched(hook)


def in_child(run: Callable[[], None]) -> int:
    """Runs in a forked child. → its exit status as the shell has it: 0, 1 for an exception, -9 for a SIGKILL"""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(n: int, run: Callable[[Callable[[int], None]], None]) -> tuple[bool, list[int]]:
    """Runs `run(acknowledge)` in a child that dies at moment `n`. → whether it died, the numbers acknowledged"""
    reader, writer = os.pipe()

    def child() -> None:
        with kill_at_call(n):
            run(lambda number: os.write(writer, struct.pack("q", number)))

    status = in_child(child)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        acknowledged = [number for (number,) in struct.iter_unpack("q", stream.read())]
    assert status in (0, -signal.SIGKILL), "the child raised"
    return status != 0, acknowledged


def crash_points(
    prepare: Callable[[], None], run: Callable[[Callable[[int], None]], None]
) -> Iterator[tuple[int, list[int]]]:
    """`prepare`, then `run(acknowledge)` in a child that dies at moment n = 1, 2, … until one lives to its end.

    Yields after each death (n, the numbers that it had acknowledged).
    """
    for n in itertools.count(1):
        prepare()
        died, acknowledged = killed_at(n, run)
        if not died:
            return
        yield n, acknowledged


# -- training ---------------------------------------------------------------------------------------------------------

PHASES = ("loading", "forward", "backward", "optimizer", "evaluation", "save", "saved")
"""`save`: the writer has its order. `saved`: the log says so. The others: in their midst."""


class _Position:
    """Where this process trains."""

    def __init__(self) -> None:
        self.step, self.inside = 0, ""
        """Steps that are behind, and the phase that forward passes belong to."""

    def stand(self, state: Any, behind: int = 0) -> None:
        self.step = state.progress.run_steps + behind

    def enter(self, phase: str) -> None:
        self.inside = phase


def _around(owner: Any, name: str, first: Callable[..., Any], then: Callable[..., Any] = lambda *_, **__: None) -> Any:
    """Patches a function so that `first` runs before it and `then` after it, each with its arguments."""
    call = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        first(*args, **kwargs)
        result = call(*args, **kwargs)
        then(*args, **kwargs)
        return result

    return mock.patch.object(owner, name, wrapped)


@contextmanager
def kill_at(step: int, phase: str) -> Iterator[None]:
    """A context in which this process, while it trains, kills itself in a phase of the run's step `step` (from 1)."""
    from torch.nn.modules.module import register_module_forward_hook
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from auricle.core.events import EventLog
    from auricle.store.steps import step_of
    from auricle.store.writer import Writer
    from auricle.train import loop
    from auricle.train.engine import Engine
    from auricle.train.run import Run

    assert phase in PHASES, phase
    now, trainer = _Position(), os.getpid()

    def at(reached: str, number: int) -> None:
        if (reached, number) == (phase, step) and os.getpid() == trainer:  # its loader workers have the hooks too
            os.kill(trainer, signal.SIGKILL)

    def loading(data: Iterator) -> None:
        if (phase, step) == ("loading", now.step + 1):
            next(data)
            at("loading", step)

    def evaluating(_: object, __: object, state: Any, **___: object) -> None:
        now.stand(state)
        now.enter("evaluation")

    def logged(_: object, kind: str, **values: Any) -> None:
        if kind == "save":
            at("saved", values["step"])

    def nothing(*_: object, **__: object) -> None:
        pass

    def leave(*_: object, **__: object) -> None:
        now.enter("")

    patches = [
        _around(loop, "load_from", lambda _, state, __: now.stand(state)),
        _around(loop, "next_step", loading),
        _around(loop, "train_step", lambda *_: now.enter("forward"), leave),
        _around(Engine, "backward", nothing, lambda *_: at("backward", now.step + 1)),
        _around(loop, "advance", lambda state, *_: now.stand(state, behind=1)),
        _around(Run, "evaluate", evaluating, leave),
        _around(Writer, "start", nothing, lambda _, order: at("save", step_of(order.checkpoint))),
        _around(EventLog, "write", nothing, logged),
    ]
    hooks = [
        register_module_forward_hook(lambda *_: at(now.inside, now.step + (now.inside == "forward"))),
        register_optimizer_step_post_hook(lambda *_: at("optimizer", now.step + 1)),
    ]
    with ExitStack() as patched:
        for patch in patches:
            patched.enter_context(patch)
        for hook in hooks:
            patched.callback(hook.remove)
        yield


# -- disks ------------------------------------------------------------------------------------------------------------


def disk_full(failures: int | None = None) -> Any:
    """A context in which the first `failures` writes (None: all) stop in the middle for lack of space."""
    left = itertools.count() if failures is None else iter(range(failures))

    def hook(call: str, moment: str) -> None:
        if (call, moment) == ("write", "middle") and next(left, None) is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return watched(hook)


def _mount(*arguments: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a disk")
    ran = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.skip(f"this machine mounts no such disk: {ran.stderr.strip()}")


@contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[Path]:
    """A disk of `size` bytes at `folder`. Skips the test where it cannot be had."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class Disk:
    """An ext4 file system in a file. `power_cut` drops what was not synced, as a host does that loses power."""

    SHUTDOWN, WITHOUT_LOG_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN and its flag, linux/fs/ext4/ext4.h

    def __init__(self, image: Path, path: Path) -> None:
        self._image, self.path = image, path

    def mount(self) -> None:
        _mount("-o", "loop", str(self._image), str(self.path))

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.path)], check=True)

    def power_cut(self) -> None:
        """The disk is mounted again when it returns. No process may have a file of it open.

        What is mounted is a copy: a name space that another test made meanwhile may hold the first one, shut down.
        """
        descriptor = os.open(self.path, os.O_RDONLY)
        fcntl.ioctl(descriptor, self.SHUTDOWN, struct.pack("I", self.WITHOUT_LOG_FLUSH))
        os.close(descriptor)
        self.unmount()
        survivor = self._image.with_name(f"after-{self._image.name}")
        subprocess.run(["cp", "--sparse=always", str(self._image), str(survivor)], check=True)
        survivor.replace(self._image)
        self.mount()


@contextmanager
def ext4_loop(folder: Path, size: int = 64 << 20) -> Iterator[Disk]:
    """Skips the test where such a disk cannot be had."""
    disk = Disk(folder / "disk.img", folder / "disk")
    disk.path.mkdir(parents=True)
    with (folder / "disk.img").open("wb") as image:
        image.truncate(size)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(folder / "disk.img")], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs mkfs.ext4: {error}")
    disk.mount()
    try:
        yield disk
    finally:
        disk.unmount()

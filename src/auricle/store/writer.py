"""Saves in a process beside the trainer: the loop stops for a copy into memory, not for a disk.

    trainer                             writer (`python -m auricle.store.writer`, nice 10)
    fills buffers, sends an Order  →    writes, hashes and syncs each file, seals, renames: the checkpoint is there
    goes on training                    exposes the best model, prunes, writes hints
    polls                          ←    Written

Orders and answers are JSON lines on stdin and stdout. The writer ignores Ctrl-C and SIGTERM and ends when its trainer
does, after the save in hand: buffers are memory that both hold, so a killed trainer costs no save that it ordered.
It imports the standard library and xxhash alone, so it starts in a tenth of a second.
"""

import contextlib
import errno
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from auricle.store import directory, steps
from auricle.store.buffers import Buffer
from auricle.store.steps import Retention

LOCK = "writer.lock"
FULL = (errno.ENOSPC, errno.EDQUOT)
MARGIN = 1 << 20
"""Bytes that stay free beside 1.05 times what a save needs."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """One save. Buffers hold the exact images of files; they may not change until it is answered."""

    checkpoint: str
    retention: Retention
    buffers: dict[str, str] = field(default_factory=dict)
    """File name → buffer name."""
    texts: dict[str, str] = field(default_factory=dict)
    """File name → content."""
    static: str | None = None
    """A folder whose files are copied in."""
    expose: str | None = None
    """The checkpoint whose model the run folder's root shows afterwards."""
    hints: dict[str, str] = field(default_factory=dict)
    """File name at the run folder's root → content, such as latest.json."""
    replace: bool = False
    """A checkpoint of that name gives way; otherwise a good one is left as it is."""

    @classmethod
    def from_json(cls, line: bytes) -> "Order":
        values = json.loads(line)
        return cls(**{**values, "retention": Retention(**values["retention"])})


@dataclass(frozen=True, kw_only=True)
class Written:
    """What became of an order."""

    checkpoint: str
    committed: bool = False
    """Whether the checkpoint is there, durable and whole."""
    bytes: int = 0
    seconds: float = 0.0
    pruned: tuple[str, ...] = ()
    """Names of the checkpoints that were removed."""
    error: str | None = None
    """Why it is not saved; of a committed save, what went wrong afterwards."""
    waited_for_space: bool = False
    """The disk was full at first: checkpoints that a mirror holds were removed."""


# -- the save itself --------------------------------------------------------------------------------------------------


def write_here(run_folder: Path, buffers: Mapping[str, Buffer], order: Order) -> Written:
    """Does what `order` says, in this process. Never raises OSError: what was there before is there still."""
    began, pruned, waited = time.monotonic(), (), False
    try:
        directory.sweep(steps.checkpoints_of(run_folder), steps.PREFIX)  # of a writer that was killed
        try:
            size = _commit(run_folder, buffers, order)
        except OSError as error:
            if error.errno not in FULL:
                raise
            waited = True
            pruned = steps.make_room(run_folder, {order.retention.best, order.expose})
            size = _commit(run_folder, buffers, order)
    except (OSError, ValueError) as error:
        said = _sentence(run_folder, error, pruned)
        return Written(checkpoint=order.checkpoint, seconds=time.monotonic() - began, pruned=pruned, error=said,
                       waited_for_space=waited)
    later, errors = _afterwards(run_folder, order)
    return Written(checkpoint=order.checkpoint, committed=True, bytes=size, seconds=time.monotonic() - began,
                   pruned=(*pruned, *later), error=errors, waited_for_space=waited)


def _sizes(buffers: Mapping[str, Buffer], order: Order) -> Iterator[int]:
    yield from (buffers[name].size for name in order.buffers.values())
    yield from (len(text.encode()) for text in order.texts.values())
    yield from (path.stat().st_size for path in _static_files(order))


def _static_files(order: Order) -> list[Path]:
    return [path for path in Path(order.static).rglob("*") if path.is_file()] if order.static else []


def _commit(run_folder: Path, buffers: Mapping[str, Buffer], order: Order) -> int:
    """→ bytes of the checkpoint. Raises OSError with ENOSPC before the first byte when there is no room for all."""
    size = sum(_sizes(buffers, order))
    target = steps.checkpoints_of(run_folder) / order.checkpoint
    there = target.exists()
    if there and not order.replace and not steps.problems(target):
        return size
    needed, free = int(1.05 * size) + MARGIN, shutil.disk_usage(run_folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"needs {_megabytes(needed)}, {_megabytes(free)} are free")
    directory.publish(target, lambda folder: _fill(folder, run_folder, buffers, order), replace=there)
    return size


def _fill(folder: Path, run_folder: Path, buffers: Mapping[str, Buffer], order: Order) -> dict[str, str]:
    """Writes every file of the checkpoint → digest by name. Raises ValueError for a part that is not there."""
    known = {}

    def write(name: str, content: Any) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        known[name] = directory.write_file(folder / name, content)

    for path in _static_files(order):
        write(path.relative_to(order.static).as_posix(), directory.blocks(path))
    for name, text in order.texts.items():
        write(name, [text.encode()])
    for name, buffer in order.buffers.items():
        memory = buffers[buffer].memory
        write(name, (memory[at : at + directory.BLOCK] for at in range(0, len(memory), directory.BLOCK)))
    for part in sorted(steps.named_parts(folder)):
        if not (steps.parts_of(run_folder) / part / directory.CHECKSUMS).exists():
            raise ValueError(f"its config.json names part {part}, which is not in {steps.parts_of(run_folder)}")
    return known


def _afterwards(run_folder: Path, order: Order) -> tuple[tuple[str, ...], str | None]:
    """Everything that follows a commit; one failure stops none of the rest. → names pruned, errors"""
    pruned: list[str] = []
    chores: list[Callable[[], None]] = []
    if order.expose:
        exposed = steps.checkpoints_of(run_folder) / order.expose
        chores.append(lambda: steps.expose(run_folder, exposed))
    kept = {order.checkpoint, order.expose or order.checkpoint}
    chores.append(lambda: pruned.extend(steps.prune(run_folder, order.retention, kept)))
    chores += [lambda name=name, text=text: directory.write_text(run_folder / name, text)
               for name, text in order.hints.items()]
    failed = []
    for chore in chores:
        try:
            chore()
        except OSError as error:
            failed.append(str(error))
    return tuple(pruned), f"it is saved, but then: {'; '.join(failed)}" if failed else None


def _sentence(run_folder: Path, error: OSError | ValueError, pruned: tuple[str, ...]) -> str:
    if isinstance(error, OSError) and error.errno in FULL:
        removed = f", also after removing {', '.join(pruned)}, which a mirror holds" if pruned else ""
        return (f"no space in {run_folder} ({error.strerror}{removed}); earlier checkpoints are untouched. Free some, "
                "or set a smaller training.save_total_limit")
    return f"{error}; earlier checkpoints are untouched"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


# -- the trainer's side -----------------------------------------------------------------------------------------------


class Writer:
    """One save in flight in a process of its own, which starts with the first order and again after a death."""

    def __init__(self, run_folder: Path, buffers: Mapping[str, Buffer]) -> None:
        self._folder, self._buffers = run_folder, buffers
        self._process: subprocess.Popen | None = None
        self._in_flight: Order | None = None
        self._answer = b""

    @property
    def busy(self) -> bool:
        """Whether an order is unanswered, or its answer not yet fetched."""
        return self._in_flight is not None

    def start(self, order: Order) -> None:
        """Hands the order over and returns at once. Raises RuntimeError while another one is in flight."""
        if self._in_flight is not None:
            raise RuntimeError(f"{self._in_flight.checkpoint} is still being saved; wait for it before the next order")
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = _launch(self._folder, self._buffers)
        self._in_flight, self._answer = order, b""
        with contextlib.suppress(BrokenPipeError):  # it just died: the missing answer says so
            self._process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
            self._process.stdin.flush()

    def poll(self) -> Written | None:
        """The answer if it is there; None otherwise, and when nothing was ordered."""
        return self._receive(0)

    def wait(self) -> Written | None:
        """The answer, however long it takes; None when nothing was ordered. A writer that dies is an answer too."""
        return self._receive(None)

    def close(self) -> Written | None:
        """Waits for the save in hand and ends the process. → the answer that nobody fetched"""
        written = self.wait()
        self._end()
        return written

    def _receive(self, milliseconds: int | None) -> Written | None:
        if self._in_flight is None:
            return None
        pipe = self._process.stdout.fileno()
        waiting = select.poll()
        waiting.register(pipe, select.POLLIN | select.POLLHUP)
        while not self._answer.endswith(b"\n"):
            if not waiting.poll(milliseconds):
                return None
            block = os.read(pipe, 1 << 16)
            if not block:
                return self._died()
            self._answer += block
        self._in_flight = None
        values = json.loads(self._answer)
        return Written(**{**values, "pruned": tuple(values["pruned"])})

    def _died(self) -> Written:
        name, self._in_flight = self._in_flight.checkpoint, None
        code = self._process.wait()
        error = f"the writer process ended (exit code {code}); the next save starts another one"
        return Written(checkpoint=name, error=error)

    def _end(self) -> None:
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(b"\n")  # closing alone says nothing: forked loader workers hold the pipe too
                self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._process = None


def _launch(run_folder: Path, buffers: Mapping[str, Buffer]) -> subprocess.Popen:
    """The writer process. It inherits the lock, so there is no moment between its start and its hold on the folder.

    It has a session of its own: neither Ctrl-C nor the end of a terminal reaches it.
    """
    with (run_folder / LOCK).open("a") as lock:
        _try_lock(lock.fileno())  # an earlier writer may hold it: then the new one waits, not the trainer
        inherited = [buffer.fd for buffer in buffers.values()]
        command = [sys.executable, "-P", "-m", "auricle.store.writer"]
        command += [str(run_folder), str(os.getpid()), str(lock.fileno())]
        command += [f"{name}={buffer.fd}" for name, buffer in buffers.items()]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
                                pass_fds=(lock.fileno(), *inherited))


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_writer(run_folder: Path, seconds: float) -> bool:
    """Waits until no writer of an earlier trainer is at work in the folder; False when one still is after `seconds`."""
    path, until = run_folder / LOCK, time.monotonic() + seconds
    if not path.exists():
        return True
    with path.open("a") as lock:
        while not _try_lock(lock.fileno()):
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
    return True


# -- the writer's side ------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """RUN_FOLDER TRAINER_PID LOCK_FD NAME=FD …"""
    folder, trainer, lock, *inherited = arguments
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)
    fcntl.flock(int(lock), fcntl.LOCK_EX)
    buffers = {}
    for name, _, fd in (item.rpartition("=") for item in inherited):
        buffers[name] = Buffer(os.fstat(int(fd)).st_size, int(fd))
    for line in _orders(int(trainer)):
        written = write_here(Path(folder), buffers, Order.from_json(line))
        with contextlib.suppress(BrokenPipeError):  # nobody is left to hear it
            os.write(sys.stdout.fileno(), json.dumps(asdict(written)).encode() + b"\n")


def _orders(trainer: int) -> Iterator[bytes]:
    """Lines from the trainer until an empty one, or until it is gone. The pipe may outlive it in its forked loader
    workers: so ask for it."""
    fd, pending = sys.stdin.fileno(), b""
    while True:
        while not select.select([fd], [], [], 1.0)[0]:
            if os.getppid() != trainer:
                return
        block = os.read(fd, 1 << 20)
        if not block:
            return
        *lines, pending = (pending + block).split(b"\n")
        for line in lines:
            if not line:
                return
            yield line


if __name__ == "__main__":
    main(sys.argv[1:])

"""The process that keeps mirrors up to date while a run trains, and until all is there once it ended.

    trainer ── start_pusher ──► `auricle mirror push RUN --follow` (nice 10, a session of its own, mirrors/push.log)
                                  a thread a target, and one for the hub: a failing one delays no other

A killed pusher leaves nothing to mend: the next one compares again. A failing target is tried again for ever.
"""

import contextlib
import fcntl
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import stamina

from auricle.core.errors import RunFolderError
from auricle.store.mirror import Mirror
from auricle.store.targets import MirrorError

POLL_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 60.0
NICE = 10


def start_pusher(run_folder: Path) -> None:
    """Starts the process for the targets of the run's configuration; it outlives this one. Raises OSError."""
    log = run_folder / "mirrors" / "push.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "auricle", "mirror", "push", str(run_folder.resolve()), "--follow"]
    files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
             (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
             (os.POSIX_SPAWN_DUP2, 1, 2)]
    os.posix_spawn(sys.executable, command, os.environ, file_actions=files, setsid=True)


def push_once(mirror: Mirror) -> None:
    """Brings one mirror up to date. Raises MirrorError at the first failure, RunFolderError where another pushes."""
    with _locked([mirror]):
        mirror.push(hurry=True)
        while not mirror.is_complete():
            mirror.push(hurry=True)


def push_forever(mirrors: Sequence[Mirror], is_running: Callable[[], bool],
                 also: Sequence[Callable[[], None]] = ()) -> None:
    """Returns when `is_running` (is the run being trained?) is false and everything is mirrored.

    `also`: other work of this process, each in a thread of its own, which ends by itself. Raises RunFolderError where
    another process pushes one of these mirrors.
    """
    work = [*(functools.partial(_follow, mirror, is_running) for mirror in mirrors), *also]
    with _locked(mirrors):
        _run(work)
    while is_running():  # a trainer that started just now found the locks taken, and relies on this process
        try:
            with _locked(mirrors):
                _run(work)
        except RunFolderError:
            return


def _run(work: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=target, daemon=True) for target in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _follow(mirror: Mirror, is_running: Callable[[], bool]) -> None:
    while True:
        ended = not is_running()
        for attempt in stamina.retry_context(on=MirrorError, attempts=None, timeout=None, wait_initial=1.0,
                                             wait_max=LONGEST_WAIT_SECONDS):
            with attempt:
                mirror.push(hurry=ended)
        if ended and mirror.is_complete():
            return
        if not ended:
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _locked(mirrors: Sequence[Mirror]) -> Iterator[None]:
    """One pusher a run and target: the lock ends with the process. Raises RunFolderError."""
    with contextlib.ExitStack() as stack:
        for mirror in mirrors:
            path = mirror.path.with_suffix(".lock")
            path.parent.mkdir(exist_ok=True)
            file = stack.enter_context(path.open("a+", encoding="utf-8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunFolderError(f"mirror of '{mirror.run_folder}' at {mirror.shown}: another process pushes it; "
                                     "`auricle mirror status` shows how far it is") from None
        yield

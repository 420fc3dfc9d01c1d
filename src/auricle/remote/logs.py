"""What a run prints there, as it comes: over rotations of the file, and over connections that break.

    laptop: INODE OFFSET ─►  machine: "INODE START LENGTH\\n" and the bytes, each second what is new, until the run ends

The offset is counted here, byte by byte as they arrive: after a cut the next connection goes on with the next byte.
"""

import shlex
import time
from collections.abc import Callable

from auricle.remote.connection import FAILED, RemoteError, Unreachable
from auricle.remote.look import Run
from auricle.remote.machine.job import EXIT
from auricle.remote.place import Place

FOLLOW = """
log=$1 exit=$2 inode=$3 offset=$4 lines=$5
send() {
  size=$(stat -Lc %s "$1" 2>/dev/null) || return 0
  [ "$size" -ge "$offset" ] || offset=0
  [ "$size" -gt "$offset" ] || return 0
  printf '%s %s %s\\n' "$inode" "$offset" "$((size - offset))"
  tail -c +"$((offset + 1))" "$1" | head -c "$((size - offset))"
  offset=$size
}
if [ "$inode" = 0 ] && [ -f "$log" ]; then
  inode=$(stat -Lc %i "$log") || exit 1
  size=$(stat -Lc %s "$log")
  offset=$((size - $(head -c "$size" "$log" | tail -n "$lines" | wc -c)))
  printf '%s %s 0\\n' "$inode" "$offset"
fi
while :; do
  ended=; [ -f "$exit" ] && ended=yes
  now=$(stat -Lc %i "$log" 2>/dev/null) || now=0
  if [ "$now" != "$inode" ] && [ "$now" != 0 ]; then
    for old in "$log".*; do
      [ "$(stat -Lc %i "$old" 2>/dev/null)" = "$inode" ] && send "$old"
    done
    inode=$now offset=0
    printf '%s 0 0\\n' "$inode"
  fi
  send "$log"
  [ -z "$ended" ] || exit 0
  printf '\\n' || exit 0
  sleep 1
done
"""
"""An empty line a second says that the machine is there, and finds out that nobody listens any more."""
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 10.0

Write = Callable[[bytes], object]
Tell = Callable[[str], None]


def tail(place: Place, run: Run, lines: int) -> bytes:
    """The last lines of what the run printed; none before it printed any. Raises RemoteError."""
    log = shlex.quote(run.log)
    done = place.run(f"if [ -e {log} ]; then tail -n {lines} {log}; fi", timeout=60.0)
    if done.code:
        raise RemoteError(f"{place.connection.target}: {run.log} cannot be read there: {done.stderr.strip()[:200]}")
    return done.stdout


class Follower:
    """Where following stands."""

    def __init__(self, place: Place, run: Run, lines: int) -> None:
        self._place, self._run, self._lines = place, run, lines
        self._inode, self._offset = 0, 0

    def follow(self, write: Write, tell: Tell) -> None:
        """Until the run ends. `tell` gets a sentence when the connection is lost, and when it is back.

        Raises RemoteError for what trying again will not mend.
        """
        wait, was_lost = RETRY_SECONDS, False
        while True:
            moved, code = self._once(write, (lambda: tell("the connection is back")) if was_lost else None)
            if code == 0:
                return
            self._place.refuse_missing(code)
            if code != FAILED:
                raise RemoteError(f"{self._place.connection.target}: {self._run.log} cannot be followed there "
                                  f"(code {code})")
            if moved or not was_lost:
                tell("the connection is lost; what comes meanwhile is shown when it is back (Ctrl-C ends looking)")
                was_lost, wait = True, RETRY_SECONDS
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_RETRY_SECONDS)
            self._refuse_for_good()

    def _once(self, write: Write, back: Callable[[], None] | None) -> tuple[bool, int]:
        """One connection. → whether anything came over it, the exit code there"""
        words = ["sh", "-c", FOLLOW, "sh", self._run.log, f"{self._run.folder}/{EXIT}", str(self._inode),
                 str(self._offset), str(self._lines)]
        moved = False
        with self._place.connection.stream(f"{self._place.entering()}exec {shlex.join(words)}") as process:
            assert process.stdout is not None
            try:
                while head := process.stdout.readline():
                    if not moved and back:
                        back()
                    moved = True
                    if head != b"\n":
                        self._take(head, process.stdout.read1, write)
            finally:
                process.kill()
        return moved, process.wait()

    def _take(self, head: bytes, read: Callable[[int], bytes], write: Write) -> None:
        """The head may be cut off by a lost connection: then nothing of the block came."""
        if not head.endswith(b"\n"):
            return
        self._inode, self._offset, left = map(int, head.split())
        while left and (block := read(min(left, 1 << 16))):
            write(block)
            left -= len(block)
            self._offset += len(block)

    def _refuse_for_good(self) -> None:
        """What only the next connection would say, and in ssh's words. Raises Refused."""
        try:
            self._place.connection.run(":", timeout=30.0)
        except Unreachable:
            return

"""Brings the project's files to a machine: those that git tracks or would track, and only what differs.

What was brought there earlier and is gone here is removed there. Nothing else is: the list of what was brought lies
in `.auricle/deployed` there, so outputs, data and files that were made there stay. What is ignored since stays, too,
until it is gone here.
"""

import math
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from auricle.core.errors import UsageError
from auricle.remote.connection import DiskFull, Progress, RemoteError, said
from auricle.remote.place import Place

KEPT = (".venv", ".auricle", "outputs", "data")
"""Folders of the machine's own. What git tracks in them goes over; nothing that was made in them does."""
DEPLOYED = ".auricle/deployed"
PARTIAL = ".auricle/partial"
"""Files whose transfer broke off; the next one goes on with them, and a day later they are gone."""
PREPARE = f"""
mkdir -p "$folder/.auricle" && cd "$folder" || exit 1
[ -f .auricle/.gitignore ] || echo '*' > .auricle/.gitignore || exit 1
find {PARTIAL} -type f -mtime +0 -exec rm -f {{}} + 2>/dev/null
if [ -f {DEPLOYED} ]; then cat {DEPLOYED}; fi
"""
NOTE = f"cat > {DEPLOYED}.$$ && mv -f {DEPLOYED}.$$ {DEPLOYED}"
REMOVE = "xargs -0 rm -f --"
REMOVE_FOLDERS = "xargs -0 rmdir -- 2>/dev/null; true"
COMMENT = ("#", ";")
"""A line that begins so is none for rsync, whatever ends it."""
ITEM = re.compile(r"^(?P<what><f|c[LdDS])\S{9} (?P<bytes>\d+) ", re.M)


@dataclass(frozen=True, kw_only=True)
class Synced:
    total: int
    """Files of the project."""
    moved: int
    bytes: int
    """That went over for them."""
    removed: int


def sync(place: Place, progress: Progress | None = None) -> Synced:
    """Raises UsageError for a project without files or without git; RemoteError for a full disk there; Unreachable:
    what went over is kept, and the same call goes on."""
    root = place.project.root
    names = files(root)
    before = _prepare(place)
    noted = list(dict.fromkeys([*names, *(name for name in before if os.path.lexists(root / name))]))
    _remove(place, _in_the_way(before, names))
    if set(names) - set(before):
        _run(place, NOTE, _joined(dict.fromkeys([*before, *names])))
    _settle(root, names)
    with tempfile.NamedTemporaryFile() as listing:
        listing.write(_joined(f"./{name}" if name.startswith(COMMENT) else name for name in names))
        listing.flush()
        printed = _rsync(place, [f"--files-from={listing.name}", f"{root}/"], progress)
    gone = sorted(set(before) - set(noted))
    _remove(place, gone)
    if set(noted) != set(before):
        _run(place, NOTE, _joined(noted))
    items = [item for item in ITEM.finditer(printed) if item["what"] != "cd"]
    return Synced(total=len(names), moved=len(items), bytes=sum(int(item["bytes"]) for item in items),
                  removed=len(gone))


def _rsync(place: Place, arguments: Sequence[str], progress: Progress | None) -> str:
    folder = place.folder()
    try:
        return place.connection.rsync(
            ["--links", "--perms", "--times", "--omit-dir-times", "--compress", f"--partial-dir={folder}/{PARTIAL}",
             "--from0", "--out-format=%i %b %n", *arguments, place.connection.remote(f"{folder}/")], progress)
    except DiskFull:
        place.run(f"rm -rf {PARTIAL}")  # half a file would keep the disk full
        raise


def _settle(root: Path, names: Sequence[str]) -> None:
    """Waits until the second of the newest change is over.

    rsync tells files apart by size and second: of two changes within one, it would not see the later.
    """
    newest = max((os.lstat(root / name).st_mtime for name in names if os.path.lexists(root / name)), default=0.0)
    left = math.floor(newest) + 1 - time.time()
    if 0 < left <= 1:
        time.sleep(left)


def files(root: Path) -> list[str]:
    """Paths below `root` of files and links, sorted. Raises UsageError."""
    listed = _listed(root)
    found: dict[str, None] = {}
    for name in listed:
        path = root / name
        if path.is_dir() and not path.is_symlink():  # a repository within this one, or a submodule that is not here
            if (path / ".git").exists():
                found.update(dict.fromkeys(f"{name.rstrip('/')}/{inner}" for inner in files(path)))
        elif os.path.lexists(path) and PurePosixPath(name).parts[0] not in KEPT[:2]:
            found[name] = None
    return sorted(found)


def _listed(root: Path) -> list[str]:
    done = _git(root, [])
    if done.returncode and b"not a git repository (or any" in done.stderr:
        with tempfile.TemporaryDirectory() as folder:
            _git_command(["init", "--quiet", folder], root)
            done = _git(root, [f"--git-dir={folder}/.git", f"--work-tree={root}"])
    if done.returncode:
        raise UsageError(f"'{root}': git cannot list its files ({said(os.fsdecode(done.stderr))}); what is deployed is "
                         "what git tracks or would track")
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _git(root: Path, where: list[str]) -> "subprocess.CompletedProcess[bytes]":
    left_out = [word for name in KEPT for word in ("--exclude", f"/{name}")]
    return _git_command([*where, "ls-files", "--cached", "--others", "--exclude-standard", *left_out, "-z"], root)


def _git_command(words: list[str], root: Path) -> "subprocess.CompletedProcess[bytes]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {"LC_ALL": "C"}
    try:
        return subprocess.run(["git", *words], cwd=root, env=environment, capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("deploying needs 'git', which is not installed here: it tells which files belong to the "
                         "project (Debian, Ubuntu: apt install git)") from None


def _prepare(place: Place) -> list[str]:
    """Makes the folder there; → the files that were brought there earlier."""
    done = place.connection.run(f"folder={place.expression}\n{PREPARE}")
    if done.code:
        raise refused_there(place, done.stderr)
    names = [os.fsdecode(name) for name in done.stdout.split(b"\0")[:-1]]
    return [name for name in names if _is_inside(name)]


def _is_inside(name: str) -> bool:
    """Whether a path of a list that was kept elsewhere is one of the project's, and not of the machine's own."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and path.parts[0] not in KEPT[:2]


def _in_the_way(before: list[str], names: list[str]) -> list[str]:
    """Files that were brought into folders which are files or links now: rsync would not remove the folder."""
    now = set(names)
    return [name for name in before if any(str(folder) in now for folder in PurePosixPath(name).parents)]


def _remove(place: Place, names: list[str]) -> None:
    """Removes files there, and folders that are left empty."""
    if not names:
        return
    _run(place, REMOVE, _joined(names))
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents} - {"."}
    if folders:
        _run(place, REMOVE_FOLDERS, _joined(sorted(folders, key=lambda folder: -folder.count("/"))))


def _joined(names: Iterable[str]) -> bytes:
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def _run(place: Place, script: str, stdin: bytes) -> None:
    done = place.run(script, stdin=stdin)
    if done.code:
        raise refused_there(place, done.stderr)


def refused_there(place: Place, printed: str) -> RemoteError:
    """What did not let itself be written there."""
    where = place.connection.target
    if "No space left" in printed:
        return DiskFull(f"{where}: its disk is full ({said(printed)}); free some there, or rent one with a larger "
                        "disk. What is there is as it was")
    return RemoteError(f"{where}: {said(printed) or 'a command failed there'}; may this user write to the project's "
                       "folder there? --folder names another one")

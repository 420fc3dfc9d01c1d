"""The project's folder on a machine, and running things in it."""

import shlex
from collections.abc import Sequence

from auricle.remote.connection import Connection, Done, RemoteError
from auricle.remote.project import Project

WORKSPACE = "/workspace"
"""The disk that RunPod and Vast.ai keep when a machine is stopped."""
NO_FOLDER, NO_PYTHON = 44, 45
"""Exit codes of scripts of ours."""
PYTHON = ".venv/bin/python"


class Place:
    """Where the project lies: what was named, what was noted at the last deploy, or the rule for new machines."""

    def __init__(self, connection: Connection, project: Project, folder: str | None = None) -> None:
        self.connection, self.project = connection, project
        self._folder = folder or project.machine(connection.target).folder

    @property
    def expression(self) -> str:
        """The folder as a shell's word."""
        if self._folder and self._folder.startswith("~/"):
            return f'"$HOME"/{shlex.quote(self._folder[2:])}'
        if self._folder:
            return shlex.quote(self._folder)
        name = shlex.quote(self.project.name)
        return f'"$([ -d {WORKSPACE} ] && [ -w {WORKSPACE} ] && echo {WORKSPACE} || echo "$HOME")"/{name}'

    def folder(self) -> str:
        """The absolute path there; asked once. It need not exist yet."""
        if not self._folder or not self._folder.startswith("/"):
            self._folder = self.connection.check(f"echo {self.expression}").rstrip("\n")
        return self._folder

    def run(self, script: str, *, stdin: bytes = b"", timeout: float | None = None) -> Done:
        """Runs a shell script in the folder; its exit code is the caller's to judge. Raises RemoteError where the
        project is not there."""
        done = self.connection.run(f"{self.entering()}{script}", stdin=stdin, timeout=timeout)
        self.refuse_missing(done.code)
        return done

    def entering(self) -> str:
        """The beginning of a script that is run in the folder."""
        return f"cd {self.expression} 2>/dev/null || exit {NO_FOLDER}\n"

    def auricle(self, words: Sequence[str], *, stdin: bytes = b"", timeout: float | None = None) -> Done:
        """Runs `auricle …` of the project's own environment there. Raises RemoteError where that is missing."""
        return self.run(self.auricle_script(words), stdin=stdin, timeout=timeout)

    def auricle_script(self, words: Sequence[str]) -> str:
        return f"[ -x {PYTHON} ] || exit {NO_PYTHON}\nexec {PYTHON} -m auricle {shlex.join(words)}"

    def refuse_missing(self, code: int) -> None:
        """Raises RemoteError for the exit codes that say that something is not there."""
        target = self.connection.target
        again = f"auricle remote deploy {target.typed}"
        if code == NO_FOLDER:
            raise RemoteError(f"{target}: this project is not there; {again}")
        if code == NO_PYTHON:
            raise RemoteError(f"{target}: the installation there is missing or was broken off; {again} goes on with it")

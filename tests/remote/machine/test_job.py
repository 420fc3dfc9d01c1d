"""The files of a run on a disk that is full."""

import contextlib
import subprocess
from pathlib import Path

import pytest

from auricle.remote.machine.job import Exit, State, Stop
from tests import faults

pytestmark = pytest.mark.root


@pytest.fixture
def disk(tmp_path):
    with faults.tmpfs(tmp_path / "small", 1 << 20) as disk:
        yield disk


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "fill").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_heartbeat_goes_on_and_a_shell_still_reads_it_as_one_line(disk):
    path = disk / "state.json"
    State(time=1.0, run="r", phase="training", limit="x" * 500).write(path)
    fill(disk)
    State(time=2.0, run="r", phase="stopping").write(path)
    assert State.read(path).time == 2.0
    assert State.read(path).limit == ""
    read = subprocess.run(["sh", "-c", 'IFS= read -r line <"$1"; printf %s "$line"', "sh", path], capture_output=True,
                          check=True)
    assert State.from_json(read.stdout).phase == "stopping"
    State(time=3.0, run="r", phase="training", limit="x" * 3000).write(path)  # in the block that it has
    assert len(State.read(path).limit) == 3000
    assert sorted(path.name for path in disk.iterdir()) == ["fill", "state.json"]


def test_one_that_would_not_fit_stays_as_it_was(disk):
    path = disk / "state.json"
    State(time=1.0, run="r", phase="training").write(path)
    fill(disk)
    with pytest.raises(OSError, match="No space left"):
        State(time=2.0, run="r", phase="training", limit="x" * 5000).write(path)
    assert State.read(path).time == 1.0
    with pytest.raises(OSError, match="No space left"):
        Exit(code=0, reason="", time=1.0).write(disk / "exit.json")
    assert sorted(path.name for path in disk.iterdir()) == ["fill", "state.json"]


def test_a_wish_to_stop_is_left_as_an_empty_file_at_least(disk):
    fill(disk)
    Stop(reason="by hand", time=1.0).leave(disk / "stop.json")
    assert (disk / "stop.json").exists()

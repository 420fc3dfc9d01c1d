"""How runs stand, read from their event logs alone."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.errors import UsageError
from auricle.core.events import Event, EventLog, read
from auricle.dashboard.runs import runs, sketch, summarise
from tests.runs import resume_run, write_run

LONG_AGO = 1_700_000_000.0
HEAD = (("system", 0.1), ("system", 0.2), ("run", 0.5))


def test_a_finished_run_tells_its_result(tmp_path):
    write_run(tmp_path / "quickstart", started=LONG_AGO)
    (run,) = runs(tmp_path)
    assert (run.name, run.state, run.step, run.total_steps) == ("quickstart", "finished", 600, 600)
    assert run.loss == pytest.approx(0.1043, abs=1e-3)
    assert run.wer == run.best_wer == pytest.approx(5 / 22)
    assert run.wall_seconds == pytest.approx(600)
    assert run.cost == pytest.approx(0.6)
    assert run.started == LONG_AGO


@pytest.mark.parametrize(("end", "started", "state"), [
    ("finished", LONG_AGO, "finished"), ("interrupted", LONG_AGO, "interrupted"), ("failed", LONG_AGO, "failed"),
    ("already finished", LONG_AGO, "finished"), (None, None, "running"), (None, LONG_AGO, "stalled"),
])
def test_the_state_follows_from_the_last_events(tmp_path, end, started, state):
    write_run(tmp_path / "run", steps=100, end=end, started=started)
    assert runs(tmp_path)[0].state == state


def test_a_system_row_after_the_end_changes_nothing(tmp_path):
    write_run(tmp_path / "run", steps=100)
    log = EventLog(tmp_path / "run" / "events.jsonl", run="run")
    log.write("system", cpu_percent=3.0)
    log.close()
    assert runs(tmp_path)[0].state == "finished"


def test_a_resumed_run_is_running_again_and_what_it_took_back_does_not_count(tmp_path):
    write_run(tmp_path / "run", steps=450, end="interrupted", started=LONG_AGO)
    resume_run(tmp_path / "run", at=200, steps=60)
    (run,) = runs(tmp_path)
    assert run.state == "running"
    assert run.step == 250
    assert run.loss > 100
    assert run.wer == pytest.approx(5 / 22 + 0.4)  # of step 200; the one of step 400 was taken back
    assert run.wall_seconds == pytest.approx(510)


def test_a_torn_last_line_is_passed_over(tmp_path):
    folder = write_run(tmp_path / "run", steps=100)
    with (folder / "events.jsonl").open("ab") as log:
        log.write(b'{"time": 1790.1, "kind": "train", "step": 125, "lo')
    assert runs(tmp_path)[0].step == 100


def test_the_sketch_of_a_log_tells_what_the_whole_log_tells(tmp_path):
    folder = write_run(tmp_path / "run", steps=450, end="interrupted", started=LONG_AGO)
    resume_run(folder, at=200, steps=60)
    path = folder / "events.jsonl"
    short, whole = sketch(path), list(read(path))
    assert len(short) < len(whole) / 2
    assert summarise(folder, short, time.time()) == summarise(folder, whole, time.time())


@given(st.lists(st.sampled_from(["system", "train", "eval", "save", "resume", "run", "end"]), max_size=30))
def test_the_sketch_of_any_log_tells_the_same(kinds):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        events, segment = [Event(kind=kind, run="any", time=at) for kind, at in HEAD], 0
        for step, kind in enumerate(kinds, 1):
            segment += kind == "run"
            back = step // 2 if kind == "resume" else step
            values = {"loss": step / 7, "wer": 1 / step, "cost": step, "config": {"kind": "conformer"}}
            events.append(Event(kind=kind, run="any", time=float(step), segment=segment, step=back, values=values))
        path.write_text("".join(event.to_json() + "\n" for event in events))
        short = sketch(path)
    assert summarise(path, short, 50.0) == summarise(path, events, 50.0)
    assert [event for event in short if event.kind not in ("system", "train")] == [
        event for event in events if event.kind not in ("system", "train")]


def test_runs_are_found_two_folders_deep_newest_first_and_one_run_folder_is_itself(tmp_path):
    write_run(tmp_path / "old", steps=25, started=LONG_AGO)
    write_run(tmp_path / "2026-11-21" / "new", steps=25)
    assert [run.name for run in runs(tmp_path)] == ["new", "old"]
    assert [run.name for run in runs(tmp_path / "old")] == ["old"]


def test_a_log_without_one_whole_line_is_a_stalled_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").write_text('[1]\n"text"\n{"ti')
    (run,) = runs(tmp_path)
    assert (run.name, run.state, run.loss, run.started) == ("run", "stalled", None, None)


def test_a_loss_that_is_not_finite_is_a_number(tmp_path):
    log = EventLog(tmp_path / "events.jsonl", run="run")
    log.write("train", step=1, loss=float("nan"))
    log.close()
    assert runs(tmp_path)[0].loss != runs(tmp_path)[0].loss


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        runs(tmp_path / "outputs")


def test_the_reader_imports_neither_torch_nor_pydantic_nor_pyarrow():
    heavy = ["torch", "pydantic", "pyarrow", "matplotlib", "numpy", "jinja2"]
    code = f"import sys, auricle.cli.runs, auricle.dashboard.runs; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout.replace("'", '"')) == []

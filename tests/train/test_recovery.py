"""Steps that are not finite: left out, gone back from, given up."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from auricle.core.errors import Diverged
from auricle.core.events import current, read
from auricle.store import directory, steps
from auricle.tasks.ctc.task import CtcTask
from auricle.train import loop
from auricle.train.checkpoint import TRAINER, load_state
from auricle.train.optim import moments
from auricle.train.run import Run
from tests.experiments import losses, run, tiny
from tests.speech import digits_manifest

SETTINGS = {
    "per_device_train_batch_size": 2,
    "batch_seconds": None,
    "max_steps": 14,
    "save_steps": 4,
    "save_minutes": None,
    "max_bad_steps": 3,
    "data": {"max_eval_samples": 4},
}
"""An epoch has 10 steps."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return digits_manifest(tmp_path_factory.mktemp("digits")).folder


@dataclass
class Poison:
    """Which places of the plan are not finite, and what each step was made of."""

    places: set = field(default_factory=set)
    kind: str = "loss"
    met: list = field(default_factory=list)
    """(place, ids) of each step, in the order of training."""
    untouched: list = field(default_factory=list)
    """Of each step, whether no weight and no moment was changed by it."""
    stop_after: int | None = None
    """So many steps in `met`."""


@pytest.fixture
def poison(monkeypatch) -> Poison:
    told = Poison()
    next_step, train_step, loss = loop.next_step, loop.train_step, CtcTask.loss

    def loaded(data):
        step = next_step(data)
        place = step.places[0]
        told.met.append(((place.epoch, place.step), {name for batch in step.micro for name in batch.ids}))
        return step

    def stepped(model, optimizer, *rest):
        def everything():
            return [value.clone() for value in (*model.state_dict().values(), *moments(optimizer).values())]

        before = everything()
        result = train_step(model, optimizer, *rest)
        told.untouched.append(all(map(torch.equal, everything(), before)))
        return result

    def spoiled(task, model, batch):
        found = loss(task, model, batch)
        if not (model.training and told.met and told.met[-1][0] in told.places):
            return found
        if told.kind == "loss":
            return replace(found, terms={n: replace(t, sum=t.sum * float("nan")) for n, t in found.terms.items()})
        nothing = (next(model.parameters()).sum() * 0.0).sqrt()  # 0, and its gradient is 0 / 0
        return replace(found, terms={n: replace(t, sum=t.sum + nothing) for n, t in found.terms.items()})

    save = Run.save
    monkeypatch.setattr(Run, "save", lambda run, *what, wait=True: (save(run, *what), run.settle()))
    monkeypatch.setattr(Run, "stopping", lambda _: told.stop_after is not None and len(told.met) >= told.stop_after)
    monkeypatch.setattr(loop, "next_step", loaded)
    monkeypatch.setattr(loop, "train_step", stepped)
    monkeypatch.setattr(CtcTask, "loss", spoiled)
    return told


def of(events, kind):
    return [event for event in events if event.kind == kind]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and moments of the newest checkpoint."""
    newest = steps.all_steps(folder)[-1]
    return {name: value for file in newest.glob("*.safetensors") for name, value in load_file(file).items()}


def assert_the_same(folder: Path, other: Path) -> None:
    found, expected = tensors(folder), tensors(other)
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_bad_step_changes_nothing_names_what_it_met_and_training_goes_on(tmp_path, digits, poison, kind):
    poison.places, poison.kind = {(0, 2), (0, 3), (0, 6)}, kind
    outcome, events = run(tiny(tmp_path, manifest=digits, **SETTINGS))
    assert (outcome.reason, outcome.step) == ("finished", 14)
    assert [place for place, _ in poison.met] == [*((0, n) for n in range(10)), *((1, n) for n in range(4))]
    assert poison.untouched == [place in poison.places for place, _ in poison.met]
    bad = of(events, "bad_step")
    assert [event.step for event in bad] == [3, 4, 7]
    for event in bad:
        assert set(event.values["ids"]) == poison.met[event.step - 1][1]
        assert len(event.values["lengths"]) == len(event.values["ids"]) == 4
        assert all(0.1 < length < 0.4 for length in event.values["lengths"])
    assert not of(events, "rollback")
    assert [step for step, _ in losses(events)] == [step for step in range(1, 15) if step not in (3, 4, 7)]


def test_after_bad_steps_in_a_row_it_returns_to_the_checkpoint_and_leaves_them_out(tmp_path, digits, poison):
    poison.places = {(0, 5), (0, 6), (0, 7)}
    outcome, events = run(tiny(tmp_path / "a", manifest=digits, **SETTINGS))
    assert (outcome.reason, outcome.step) == ("finished", 14)
    later = [place for place, _ in poison.met[8:]]
    assert later == [(0, 4), (0, 8), (0, 9), *((1, n) for n in range(7))]
    spoiled = set().union(*(ids for place, ids in poison.met if place in poison.places))
    assert not spoiled & set().union(*(ids for (epoch, _), ids in poison.met[8:] if epoch == 0))
    (rollback,), (resume,) = of(events, "rollback"), of(events, "resume")
    assert (rollback.step, rollback.values["to_step"], resume.step) == (8, 4, 4)
    assert rollback.values["checkpoint"] == resume.values["checkpoint"] == "step-000000004"
    assert rollback.values["skipped"] == [[0, 5], [0, 6], [0, 7]]
    kept = current(read(tmp_path / "a" / "run" / "events.jsonl"))
    assert [event.step for event in kept if event.kind == "train"] == list(range(1, 15))
    assert not of(kept, "bad_step")


@pytest.mark.slow
def test_the_run_after_a_return_is_the_one_that_resumed_there_without_those_steps(tmp_path, digits, poison):
    poison.places = {(0, 5), (0, 6), (0, 7)}
    _, events = run(tiny(tmp_path / "a", manifest=digits, **SETTINGS))
    poison.places, poison.stop_after = set(), len(poison.met) + 4
    run(tiny(tmp_path / "b", manifest=digits, **SETTINGS))
    (checkpoint,) = steps.all_steps(tmp_path / "b" / "run")
    left_out = replace(load_state(checkpoint), skipped=((0, 5), (0, 6), (0, 7)), rollbacks=1)

    def write(folder):
        for file in checkpoint.iterdir():
            if file.name != directory.CHECKSUMS:
                (folder / file.name).write_bytes(file.read_bytes())
        (folder / TRAINER).write_text(left_out.to_json(), encoding="utf-8")

    directory.publish(checkpoint, write, replace=True)
    poison.stop_after = None
    _, resumed = run(tiny(tmp_path / "b", manifest=digits, **SETTINGS))
    assert losses(resumed) == losses(events)[5:]
    assert_the_same(tmp_path / "b" / "run", tmp_path / "a" / "run")


@pytest.mark.slow
def test_what_was_left_out_stays_left_out_after_a_restart(tmp_path, digits, poison):
    poison.places = {(0, 5), (0, 6), (0, 7)}
    run(tiny(tmp_path / "a", manifest=digits, **SETTINGS))
    straight = list(poison.met)
    poison.met.clear()
    poison.stop_after = 10
    outcome, _ = run(tiny(tmp_path / "b", manifest=digits, **SETTINGS))
    assert (outcome.reason, outcome.step) == ("interrupted", 6)
    poison.stop_after = None
    run(tiny(tmp_path / "b", manifest=digits, **SETTINGS))
    assert poison.met == straight
    assert_the_same(tmp_path / "b" / "run", tmp_path / "a" / "run")


def test_each_stage_may_return_three_times_and_no_more(tmp_path, digits, poison):
    poison.places = {(0, 4), (0, 5), (0, 6), (0, 7)}
    with pytest.raises(Diverged, match=r"stage main: 1 steps in a row .*\(the last one step 5\) after 3 returns") as it:
        run(tiny(tmp_path, manifest=digits, **{**SETTINGS, "max_bad_steps": 1}))
    assert it.value.exit_code == 76
    events = list(read(tmp_path / "run" / "events.jsonl"))
    assert [event.values["rollbacks"] for event in of(events, "rollback")] == [1, 2, 3]
    assert [event.values["reason"] for event in of(events, "end")] == ["diverged"]
    assert [path.name for path in steps.all_steps(tmp_path / "run")] == ["step-000000004"]


def test_without_a_checkpoint_there_is_nothing_to_return_to(tmp_path, digits, poison):
    poison.places = {(0, 0), (0, 1)}
    with pytest.raises(Diverged, match=r"there is no checkpoint to return to.*auricle data inspect") as raised:
        run(tiny(tmp_path, manifest=digits, **{**SETTINGS, "max_bad_steps": 2}))
    assert raised.value.exit_code == 76
    assert [event.values["reason"] for event in read(tmp_path / "run" / "events.jsonl") if event.kind == "end"] == [
        "diverged"
    ]


def test_a_damaged_checkpoint_is_not_returned_to(tmp_path, digits, poison, monkeypatch):
    poison.places = {(0, 5), (0, 6)}
    newest, armed = steps.newest, []

    def damaged(folder, report):
        if armed:
            (folder / "checkpoints" / "step-000000004" / "encoder.safetensors").write_bytes(b"torn")
        armed.append(folder)
        return newest(folder, report)

    monkeypatch.setattr(steps, "newest", damaged)
    outcome, events = run(tiny(tmp_path, manifest=digits, **{**SETTINGS, "save_steps": 2, "max_bad_steps": 2}))
    assert (outcome.reason, outcome.step) == ("finished", 14)
    assert [event.values["to_step"] for event in of(events, "rollback")] == [2]
    assert any("step-000000004 is damaged" in event.values["message"] for event in of(events, "alarm"))
    assert [place for place, _ in poison.met[7:]][:4] == [(0, 2), (0, 3), (0, 4), (0, 7)]
    assert all(not directory.problems(path) for path in steps.all_steps(tmp_path / "run"))


def test_in_a_second_stage_it_returns_to_the_end_of_the_first(tmp_path, digits, poison):
    stages = {"head": {"trainable": ["ctc_head"], "max_steps": 3}, "all": {"max_steps": 4}}
    settings = {**SETTINGS, "max_bad_steps": 1, "save_steps": None}
    poison.places = {(0, 3)}  # only the second stage comes there
    outcome, events = run(tiny(tmp_path, manifest=digits, stages=stages, **settings))
    seen = [place for place, _ in poison.met]
    assert seen == [(0, 0), (0, 1), (0, 2), (0, 0), (0, 1), (0, 2), (0, 3), (0, 0), (0, 1), (0, 2), (0, 4)]
    assert (outcome.reason, outcome.step) == ("finished", 7)
    (rollback,) = of(events, "rollback")
    assert (rollback.stage, rollback.step, rollback.values["to_step"]) == ("all", 7, 3)
    assert of(events, "resume")[0].stage == "all"
    assert not directory.problems(steps.all_steps(tmp_path / "run")[-1])

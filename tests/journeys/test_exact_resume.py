"""Killed anywhere and started again, a run is the uninterrupted one, bit for bit, in all that it leaves."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults import PHASES
from tests.journeys.children import Trainer, losses, ranks, standing, tensors, utterances
from tests.speech import digits_manifest

pytestmark = pytest.mark.slow

EPOCH = 10
"""Steps: 40 utterances, 4 a step."""
SETTINGS = {
    "data": {"augment": {"speeds": [0.9, 1.0, 1.1], "spec_augment": {}}},
    "max_steps": 23,
    "eval_steps": 15,
    "save_steps": 1,
}
DEATHS = [
    (4, "loading", {}),
    (5, "forward", {}),
    (7, "backward", {}),
    (EPOCH - 1, "saved", {"save_steps": EPOCH - 1}),
    (EPOCH, "save", {"save_steps": EPOCH}),
    (EPOCH + 1, "saved", {"save_steps": EPOCH + 1}),
    (13, "optimizer", {}),
    (15, "evaluation", {}),
    (17, "loading", {}),
    (19, "save", {"save_steps": 19}),
    (21, "optimizer", {}),
    (22, "backward", {}),
    (23, "evaluation", {}),
]
"""Step, phase, and what is set otherwise for that start."""
ACCUMULATION = {1: {"per_device_train_batch_size": 4}, 4: {"per_device_train_batch_size": 1}}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return digits_manifest(tmp_path_factory.mktemp("digits")).folder


@pytest.fixture(scope="module")
def straight(digits, tmp_path_factory):
    """The uninterrupted run with some settings, without loader workers."""
    known: dict[str, Trainer] = {}

    def of(settings: dict[str, Any]) -> Trainer:
        if (key := repr(settings)) not in known:
            known[key] = Trainer(home=tmp_path_factory.mktemp("straight"), settings={"manifest": digits, **settings})
            assert known[key].run() == 0, known[key].printed()
        return known[key]

    return of


def of_accumulation(number: int) -> dict[str, Any]:
    return {**SETTINGS, **ACCUMULATION[number], "gradient_accumulation_steps": number}


def die(trainer: Trainer, deaths: Sequence[tuple[int, str, dict]], workers: Sequence[int]) -> list[int]:
    """Starts `trainer` once for each death, and once more to its end. → the steps that the starts resumed from"""
    turns = itertools.cycle(workers)
    for step, phase, changed in deaths:
        settings = {**trainer.settings, **changed, "dataloader_num_workers": next(turns)}
        status = Trainer(home=trainer.home, settings=settings, kill=(step, phase)).run()
        assert status == -9, f"not killed at {phase} of step {step}: {status} {trainer.printed()}"
    settings = {**trainer.settings, "dataloader_num_workers": next(turns)}
    assert Trainer(home=trainer.home, settings=settings).run() == 0, trainer.printed()
    return [event.step for event in trainer.events() if event.kind == "resume"]


def assert_the_same(found: Trainer, expected: Trainer) -> None:
    assert losses(found) == losses(expected)
    assert utterances(found.home) == utterances(expected.home)
    assert tensors(found.folder) == tensors(expected.folder)
    assert standing(found.folder) == standing(expected.folder)


def test_a_run_dies_in_every_phase():
    assert {phase for _, phase, _ in DEATHS} == set(PHASES)


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("workers", [(0,), (2,), (4,), (0, 2, 4, 1)], ids=str)
def test_a_run_that_dies_over_and_over_is_the_uninterrupted_one(tmp_path, digits, straight, workers, accumulation):
    settings = of_accumulation(accumulation)
    trainer = Trainer(home=tmp_path, settings={"manifest": digits, **settings})
    resumed = die(trainer, DEATHS, workers)
    assert len(resumed) == len(DEATHS)
    assert {EPOCH - 1, EPOCH, EPOCH + 1, 19, 23} <= set(resumed)
    assert all(sum(epoch * EPOCH <= step < (epoch + 1) * EPOCH for step in resumed) >= 3 for epoch in range(3))
    assert_the_same(trainer, straight(settings))


def test_stages_that_die_before_amid_and_behind_a_border_are_the_uninterrupted_ones(tmp_path, digits, straight):
    head = {"trainable": ["ctc_head"], "max_steps": 5}
    stages = {"head": head, "all": {"max_steps": 5, "learning_rates": {"encoder": 1e-4}}, "head again": head}
    settings = {**SETTINGS, **ACCUMULATION[1], "gradient_accumulation_steps": 1, "stages": stages}
    trainer = Trainer(home=tmp_path, settings={"manifest": digits, **settings})
    behind_a_stage = [(5, "save", {"save_steps": 5}), (6, "loading", {}), (7, "optimizer", {})]
    behind_the_next = [(10, "saved", {"save_steps": 5}), (11, "loading", {}), (14, "saved", {"save_steps": 4})]
    resumed = die(trainer, [(3, "optimizer", {}), *behind_a_stage, *behind_the_next], workers=[0, 2])
    assert {5, 10} <= set(resumed)
    assert_the_same(trainer, straight(settings))
    assert any(name.startswith("checkpoints/parts") for name in tensors(trainer.folder))


def test_scaled_adam_and_eden_die_and_go_on_as_if_they_had_not(tmp_path, digits, straight):
    rates = {"learning_rate": 0.045, "lr_scheduler_type": "eden", "eden_steps": 8.0, "warmup_steps": 4}
    settings = {**of_accumulation(4), "max_steps": 12, "optim": "scaled_adam", **rates}
    trainer = Trainer(home=tmp_path, settings={"manifest": digits, **settings})
    deaths = [(4, "backward", {}), (7, "saved", {"save_steps": 7}), (10, "optimizer", {})]
    resumed = die(trainer, deaths, workers=[0, 2])
    assert len(resumed) == 3
    assert_the_same(trainer, straight(settings))


def test_one_process_goes_on_where_two_died_with_the_same_utterances_a_step(tmp_path, digits, straight):
    settings = {**of_accumulation(4), "max_steps": 12}
    expected = straight(settings)
    half = {"manifest": digits, **settings, "gradient_accumulation_steps": 2}
    for step, phase in [(4, "backward"), (8, "forward")]:
        both = ranks(Trainer(home=tmp_path, settings=half, kill=(step, phase)), world=2)
        for process in both:
            process.join(60)
            process.kill()
    trainer = Trainer(home=tmp_path, settings=half)
    assert trainer.run() == 0, trainer.printed()
    resumed = [event.step for event in trainer.events() if event.kind == "resume"]
    assert len(resumed) == 2
    assert 0 < resumed[0] < resumed[1] < 8
    assert utterances(tmp_path) == utterances(expected.home)

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.config import DataConfig, DatasetConfig, ExperimentConfig, TrainingConfig
from auricle.core.extents import Progress
from auricle.models.conformer.config import Config as Conformer
from auricle.tasks.ctc.config import Config as Ctc
from auricle.train.config_changes import TRAINING_KEYS, Kind, changes, kind_of, moved_rate


def plain(stages=None, data=None, **training) -> dict:
    experiment = ExperimentConfig(
        model=Conformer(kind="conformer"), task=Ctc(kind="ctc"),
        data=DataConfig(datasets={"digits": DatasetConfig(manifest="data/digits")}, **(data or {})),
        training=TrainingConfig(**{"max_steps": 1000, "batch_seconds": 10.0, "learning_rate": 1e-3, **training}),
        stages=stages or {})
    return json.loads(json.dumps(experiment.model_dump(mode="json")))


def test_every_training_key_is_declared_in_exactly_one_kind():
    declared = Counter(key for keys in TRAINING_KEYS.values() for key in keys)
    assert set(declared) == set(TrainingConfig.model_fields)
    assert set(declared.values()) == {1}


@pytest.mark.parametrize(("key", "kind"), [
    ("training.save_keep_every", Kind.OPERATIONAL), ("training.report_to", Kind.OPERATIONAL),
    ("training.max_steps", Kind.EXTENDING), ("stages.adapt.max_steps", Kind.EXTENDING),
    ("training.batch_seconds", Kind.PLANNING), ("stages.adapt.batch_seconds", Kind.PLANNING),
    ("training.learning_rates.encoder", Kind.IDENTITY), ("stages.adapt.learning_rates.encoder", Kind.IDENTITY),
    ("stages.adapt.fsdp", Kind.OPERATIONAL), ("training.unheard_of", Kind.IDENTITY),
    ("data.datasets.digits.weight", Kind.PLANNING), ("data.max_seconds", Kind.PLANNING),
    ("data.augment.speeds", Kind.IDENTITY), ("data.max_eval_samples", Kind.IDENTITY),
    ("data.prepared_dir", Kind.OPERATIONAL), ("evaluation.normalizer", Kind.OPERATIONAL),
    ("mirror.targets", Kind.OPERATIONAL), ("model.width", Kind.IDENTITY), ("task.kind", Kind.IDENTITY),
    ("mirrored", Kind.IDENTITY),
])
def test_a_key_has_its_kind_wherever_it_stands(key, kind):
    assert kind_of(key) is kind


def test_what_differs_is_named_with_its_old_and_new_value():
    found = changes(plain(), plain(seed=7, learning_rates={"encoder": 1e-4}))
    assert [str(change) for change in found] == [
        "training.learning_rates was {}, is not set", "training.learning_rates.encoder was not set, is 0.0001",
        "training.seed was 42, is 7"]
    assert changes(plain(), plain()) == []


ONE, TWO = {"warm": {"max_steps": 10}}, {"adapt": {"learning_rate": 1e-4}}


def test_a_stage_behind_the_others_extends_and_any_other_change_of_stages_is_identity():
    [added] = changes(plain(ONE), plain({**ONE, **TWO}))
    assert (added.key, added.kind) == ("stages.adapt", Kind.EXTENDING)
    for old, new in (({**ONE, **TWO}, {**TWO, **ONE}), (ONE, {**TWO, **ONE}), ({**ONE, **TWO}, ONE), ({}, ONE),
                     (ONE, {}), (ONE, TWO)):
        assert [change.key for change in changes(plain(old), plain(new)) if change.kind is Kind.IDENTITY] == ["stages"]
    [longer] = changes(plain(ONE), plain({"warm": {"max_steps": 20}}))
    assert (longer.key, longer.kind) == ("stages.warm.max_steps", Kind.EXTENDING)


def at(steps: int, **done) -> Progress:
    return Progress(steps=steps, run_steps=steps, **done)


def test_the_rate_at_the_point_reached_is_shown_under_both_ends():
    said = moved_rate(plain(), plain(max_steps=2000), "main", at(500))
    assert said == "at step 500 the rate would jump from 0.0005 to 0.000854 (cosine)"
    assert moved_rate(plain(), plain(max_steps=2000), "main", at(1000)).startswith(
        "at step 1000 the rate would jump from 0 to 0.0005")


def test_a_rate_in_its_warm_up_stays_and_the_rest_is_said_to_change():
    assert moved_rate(plain(warmup_steps=100), plain(warmup_steps=100, max_steps=2000), "main", at(50)) == (
        "at step 50 the rate stays 0.00051, but the rest of cosine changes")


def test_another_unit_of_the_end_moves_the_rate_too():
    old, new = plain(num_train_epochs=4.0), plain(num_train_epochs=8.0)
    assert moved_rate(old, new, "main", at(500, epochs=3.0)).startswith("at step 500 the rate would jump from 0.000146")


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 50))
def test_a_rate_that_knows_no_end_never_moves_with_a_warm_up_in_steps(old, new, steps, warmup):
    for kind in ("constant_with_warmup", "eden"):
        before, after = (plain(max_steps=end, lr_scheduler_type=kind, warmup_steps=warmup) for end in (old, new))
        assert moved_rate(before, after, "main", at(steps)) is None


def test_a_warm_up_that_is_a_part_of_the_stage_moves():
    part = {"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.5}
    assert moved_rate(plain(**part), plain(max_steps=2000, **part), "main", at(500)) == (
        "at step 500 the rate would jump from 0.001 to 0.000501 (constant_with_warmup)")


def test_only_the_stage_in_hand_can_move():
    old, new = plain({**ONE, "adapt": {"max_steps": 20}}), plain({**ONE, "adapt": {"max_steps": 40}})
    assert moved_rate(old, new, "warm", at(5)) is None
    assert "at step 5" in moved_rate(old, new, "adapt", at(5))


def test_a_warm_up_of_eden_that_is_a_part_of_the_stage_moves():
    part = {"lr_scheduler_type": "eden", "warmup_ratio": 0.5}
    said = moved_rate(plain(**part), plain(max_steps=2000, **part), "main", at(200))
    assert said.startswith("at step 200 the rate would jump from 0.000701 to 0.0006")

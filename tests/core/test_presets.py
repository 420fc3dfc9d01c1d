"""The `training` presets compose with the defaults, and say what their headers say."""

import pytest

from auricle.core.compose import compose
from auricle.core.config import ExperimentConfig, RemoteConfig, TrainingConfig
from auricle.core.decode import decode
from auricle.core.library import Library
from auricle.core.lines import read

PRESETS = ("base", "production", "mac", "mac_override")


@pytest.fixture(autouse=True)
def nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def decoded(*overrides: str) -> ExperimentConfig:
    return decode(compose(overrides))


def training(name: str, *overrides: str) -> TrainingConfig:
    return decoded(f"training={name}", *overrides).training


def changes(name: str, of: str) -> set[str]:
    one, other = training(name).model_dump(), training(of).model_dump()
    return {key for key in one if one[key] != other[key]}


@pytest.mark.parametrize("name", PRESETS)
def test_each_decodes_with_the_default_model_task_and_data_and_for_a_speech_llm(name):
    assert decoded(f"training={name}").model.kind == decoded().model.kind
    assert decoded(f"training={name}", "model=tiny", "task=chat").training == training(name)


@pytest.mark.parametrize("name", PRESETS)
def test_each_has_a_sentence_for_those_who_list_them(name):
    assert len(read(Library().find("training", name, "test")).title) > 40


def test_the_base_has_the_values_that_the_course_explains():
    base = training("base")
    assert (base.learning_rate, base.lr_scheduler_type, base.warmup_steps) == (1e-4, "cosine", 500)
    assert base.per_device_train_batch_size * base.gradient_accumulation_steps == 32
    assert (base.max_steps, base.save_steps, base.eval_steps, base.logging_steps) == (10_000, 500, 1_000, 25)
    assert (base.max_grad_norm, base.weight_decay, base.adam_beta2) == (1.0, 0.0, 0.999)


def test_production_is_the_base_with_more_workers():
    assert changes("production", of="base") == {"dataloader_num_workers"}
    assert training("production").dataloader_num_workers > training("base").dataloader_num_workers


def test_a_step_on_a_mac_holds_as_many_utterances_as_one_of_the_base():
    mac, base = training("mac"), training("base")
    assert mac.per_device_train_batch_size < base.per_device_train_batch_size
    assert (mac.per_device_train_batch_size * mac.gradient_accumulation_steps
            == base.per_device_train_batch_size * base.gradient_accumulation_steps)
    assert mac.learning_rate == base.learning_rate


def test_the_smoke_test_ends_after_a_few_small_steps_and_shows_each():
    smoke = training("mac_override")
    assert smoke.max_steps * smoke.per_device_train_batch_size * smoke.gradient_accumulation_steps <= 50
    assert (smoke.logging_steps, smoke.eval_steps) == (1, None)
    assert smoke.warmup_steps < smoke.max_steps


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_typed_wins(name):
    assert training(name, "training.max_steps=7", "training.learning_rate=1e-3").max_steps == 7


# -- machines ---------------------------------------------------------------------------------------------------------

MACHINES = ("default", "runpod", "vast", "lambda")


@pytest.mark.parametrize("name", MACHINES)
def test_each_kind_of_machine_is_chosen_by_name_and_says_what_it_is(name):
    chosen = decoded(f"remote={name}", "remote.max_cost=5").remote
    assert chosen.max_cost == 5
    assert decoded(f"+remote={name}").remote == decoded(f"remote={name}").remote
    assert chosen.idle_minutes
    assert len(read(Library().find("remote", name, "test")).title) > 40


def test_machines_have_the_values_of_the_frame_where_nothing_is_chosen():
    assert decoded().remote == RemoteConfig()


def test_a_disk_is_deleted_only_where_a_machine_cannot_be_stopped():
    assert {name: decoded(f"remote={name}").remote.on_limit for name in MACHINES} == {
        "default": "stop", "runpod": "stop", "vast": "stop", "lambda": "release"}
    for name in MACHINES:
        same = decoded(f"remote={name}").remote
        assert (same.environment, same.secrets) == (RemoteConfig().environment, RemoteConfig().secrets)

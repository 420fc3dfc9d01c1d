"""Strict decoding: what is right comes back unchanged, and what is wrong is one sentence with its place."""

import contextlib
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.core.config import TrainingConfig
from auricle.core.decode import decode, decode_block, decode_model, to_plain, to_yaml
from auricle.core.errors import ConfigError

BLOCK = """
from pathlib import Path
from typing import Literal

from auricle.core.frame import Block, Frame


class Frontend(Frame):
    n_mels: int = 80
    style: Literal["kaldi", "whisper"] = "kaldi"


class Config(Block):
    width: int = 144
    rates: tuple[float, float] = (0.9, 1.1)
    folder: Path | None = None
    frontend: Frontend = Frontend()
    layers: int | list[int] = 4
"""


KIND = "decode_lab.block"


@pytest.fixture(autouse=True)
def lab(tmp_path, monkeypatch):
    """A block of a user's own package, named by a dotted kind."""
    package = tmp_path / "decode_lab"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "block.py").write_text(BLOCK, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("decode_lab", KIND):
        sys.modules.pop(name, None)


def values(**changes) -> dict:
    """A whole configuration; `training__max_steps=3` changes one key, `...=None` of a block too."""
    whole = {
        "model": {"kind": KIND}, "task": {"kind": KIND},
        "data": {"datasets": {"clean": {"source": {"kind": KIND}}, "old": {"manifest": "data/old"}}},
        "training": {"max_steps": 5, "batch_seconds": 10},
    }
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        node = whole
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return whole


def told(**changes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        decode(values(**changes), where=lambda key: f"<{key}>")
    return str(caught.value).splitlines()


def test_what_was_decoded_decodes_again_to_the_same():
    config = decode(values(model__rates=[0.5, 2], model__folder="x/y", data__augment={"gain_db": [-3, 3.5]},
                           stages={"warm": {"max_steps": 2}, "main": {}}, training__report_to=["wandb"]))
    assert decode(to_plain(config)) == config
    assert decode(yaml.safe_load(to_yaml(config, ["model.width=3"]))) == config
    assert to_yaml(config, ["model.width=3"]).splitlines()[1] == "#   model.width=3"


def test_a_block_is_decoded_by_its_own_room_and_keeps_its_own_keys():
    config = decode(values(model__width=7))
    assert config.model.width == 7
    assert config.data.datasets["clean"].source.frontend.n_mels == 80
    assert to_plain(config)["model"]["width"] == 7


def test_lists_fill_tuples_and_whole_numbers_are_numbers():
    config = decode(values(data__augment={"noise": {"folder": "n", "snr_db": [5, 25]}}, training__learning_rate=1))
    assert config.data.augment.noise.snr_db == (5.0, 25.0)
    assert config.training.learning_rate == 1.0


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
def test_no_value_at_all_gives_a_traceback(value):
    for key in ("training", "max_steps", "data", "stages", "model", "learning_rates"):
        whole = values()
        whole["training" if key in ("max_steps", "learning_rates") else key] = value
        with contextlib.suppress(ConfigError):
            decode(whole)


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"modle": 1}, "<modle>: no key 'modle' (1); did you mean 'model'?"),
    ({"learning_rate": 0.1}, "<learning_rate>: no key 'learning_rate' (0.1); did you mean 'training.learning_rate'?"),
    ({"training__warmup_step": 5},
     "<training.warmup_step>: no key 'training.warmup_step' (5); did you mean 'warmup_steps'?"),
    ({"training__min_seconds": 5},
     "<training.min_seconds>: no key 'training.min_seconds' (5); did you mean 'data.min_seconds'?"),
    ({"data__augment__nois": {}}, "<data.augment.nois>: no key 'data.augment.nois' ({}); did you mean 'noise'?"),
    ({"data__augment__noise": {"folder": "x", "snr": 1}},
     "<data.augment.noise.snr>: no key 'data.augment.noise.snr' (1); did you mean 'snr_db'?"),
    ({"data__datasets__clean__wieght": 2},
     "<data.datasets.clean.wieght>: no key 'data.datasets.clean.wieght' (2); did you mean 'weight'?"),
    ({"data__datasets__clean__source": {"kind": KIND, "widht": 2}},
     "<data.datasets.clean.source.widht>: no key 'data.datasets.clean.source.widht' (2); did you mean 'width'?"),
    ({"model__widht": 3}, "<model.widht>: no key 'model.widht' (3); did you mean 'width'?"),
    ({"model__frontend": {"n_mel": 3}},
     "<model.frontend.n_mel>: no key 'model.frontend.n_mel' (3); did you mean 'n_mels'?"),
    ({"stages": {"warm": {"learnig_rate": 1}}},
     "<stages.warm.learnig_rate>: no key 'stages.warm.learnig_rate' (1); did you mean 'learning_rate'?"),
    ({"evaluation": {"normaliser": "x"}},
     "<evaluation.normaliser>: no key 'evaluation.normaliser' (\"x\"); did you mean 'normalizer'?"),
])
def test_a_typo_at_any_level_is_told_with_the_nearest_name(changes, sentence):
    assert told(**changes) == [sentence]


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"training__max_steps": "10"}, '<training.max_steps>: training.max_steps is "10"; expected a whole number'),
    ({"training__max_steps": ""}, '<training.max_steps>: training.max_steps is ""; expected a whole number'),
    ({"training__max_steps": True}, "<training.max_steps>: training.max_steps is true; expected a whole number"),
    ({"training__max_steps": 1.5}, "<training.max_steps>: training.max_steps is 1.5; expected a whole number"),
    ({"training__max_steps": 0}, "<training.max_steps>: training.max_steps is 0; expected a value greater than 0"),
    ({"training__learning_rate": "1e-3"},
     '<training.learning_rate>: training.learning_rate is "1e-3"; expected a number'),
    ({"training__torch_compile": 1}, "<training.torch_compile>: training.torch_compile is 1; expected true or false"),
    ({"training__run_name": 7}, "<training.run_name>: training.run_name is 7; expected text (a number that is"),
    ({"training__adam_beta1": 2}, "<training.adam_beta1>: training.adam_beta1 is 2; expected a value less than or"),
    ({"training__device": "gpu"}, "<training.device>: training.device is \"gpu\"; expected 'auto', 'cuda', 'mps'"),
    ({"training__lr_scheduler_type": "cosin"}, "; did you mean 'cosine'?"),
    ({"training__report_to": "wandb"}, '<training.report_to>: training.report_to is "wandb"; expected a list'),
    ({"training__report_to": ["wand"]}, "<training.report_to.0>: training.report_to.0 is \"wand\"; expected 'trackio'"),
    ({"data__augment": {"gain_db": [1, 2, 3]}},
     "<data.augment.gain_db>: data.augment.gain_db is [1, 2, 3]; expected at most 2"),
    ({"data__datasets": {}}, "<data.datasets>: data.datasets is {}; expected at least 1 item"),
    ({"data__datasets__old": None}, "<data.datasets.old>: data.datasets.old is null; expected keys with values"),
    ({"data__datasets__old": {}}, "<data.datasets.old>: data.datasets.old: give either 'manifest'"),
    ({"training": 3}, "<training>: training is 3; expected keys with values below it"),
    ({"training": {"max_steps": 3}}, "<training>: training: no batch: give batch_seconds"),
    ({"stages": {"warm": {"augment": {"speed": [1.0]}}}},
     "<stages.warm.augment.speed>: no key 'stages.warm.augment.speed' ([1.0]); did you mean 'speeds'?"),
    ({"stages": {"warm": 3}}, "<stages.warm>: stages.warm is 3; expected keys of 'training' below it"),
    ({"stages": {"warm": {"max_steps": -1}}}, "<stages.warm.max_steps>: stages.warm.max_steps is -1; expected a value"),
    ({"stages": {"warm": {"max_steps": None}}}, "<stages.warm>: stages.warm: no end: give max_steps"),
    ({"evaluation": {"normalizer": "basc"}},
     "<evaluation.normalizer>: evaluation.normalizer is \"basc\"; no such normaliser 'basc'; did you mean 'basic'?"),
    ({"model__layers": "x"}, '<model.layers>: model.layers is "x"; expected a whole number'),
])
def test_a_wrong_value_is_told_with_what_was_expected(changes, sentence):
    assert sentence in told(**changes)[0]


@pytest.mark.parametrize(("block", "sentence"), [
    (None, "<model>: model is null; expected keys below it, first 'kind'"),
    ("conformer", 'model is "conformer"; expected keys below it'),
    ({}, "<model.kind>: model has no 'kind'; expected one of: "),
    ({"kind": None}, "<model.kind>: model has the kind null; expected one of: "),
    ({"kind": 3}, "<model.kind>: model has the kind 3; expected one of: "),
    ({"kind": "conformr"}, "<model.kind>: model.kind: no model 'conformr'; did you mean 'conformer'?"),
    ({"kind": "decode_lab.blok"}, "<model.kind>: model.kind: models: cannot import 'decode_lab.blok'"),
    ({"kind": "json.decoder"}, "<model.kind>: json.decoder has no class Config"),
])
def test_a_block_without_a_usable_kind_is_one_sentence(block, sentence):
    assert sentence in told(model=block)[0]


def test_a_missing_part_is_told():
    whole = values()
    del whole["model"], whole["training"]
    with pytest.raises(ConfigError) as caught:
        decode(whole, where="run.json")
    assert str(caught.value).splitlines() == ["run.json: 'model' is missing; give it a value",
                                              "run.json: 'training' is missing; give it a value"]


def test_all_mistakes_of_a_configuration_are_told_at_once():
    lines = told(model__widht=1, task__kind="ctcc", training__max_steps="x", stages={"warm": {"sed": 1}, "b": 3},
                 data__datasets__old={"manifest": 3}, evaluation={"decoder": None})
    assert [line.partition(":")[0] for line in lines] == [
        "<model.widht>", "<task.kind>", "<stages.warm.sed>", "<stages.b>",
        "<data.datasets.old.manifest>", "<training.max_steps>", "<evaluation.decoder>"]


def test_a_mistake_in_training_is_not_repeated_for_each_stage():
    assert len(told(training__max_steps="x", stages={"one": {"seed": 1}, "two": {"seed": 2}})) == 1


def test_a_long_value_is_cut():
    assert len(told(training__seed="x" * 1000)[0]) < 200


def test_any_frame_and_any_block_decode_with_the_same_sentences():
    with pytest.raises(ConfigError, match=r"^train\.yaml: no key 'max_step' \(3\); did you mean 'max_steps'\?$"):
        decode_model(TrainingConfig, {"max_steps": 1, "batch_seconds": 1, "max_step": 3}, "train.yaml")
    with pytest.raises(ConfigError, match=r"^run\.json: width is null; expected a whole number$"):
        decode_block("models", {"kind": KIND, "width": None}, "run.json")

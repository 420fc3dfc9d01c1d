"""A model learns from what it can hear; a run with anything else is refused before its first step."""

import json

import pytest
from typer.testing import CliRunner

from auricle.cli.main import app
from auricle.core.config import ExperimentConfig
from auricle.core.decode import decode
from auricle.core.errors import ConfigError, UsageError
from auricle.data.prepare import prepare
from auricle.data.sources.an4 import Config
from auricle.inference.load import open_model
from auricle.inference.transcribe import transcribe
from tests.corpora import write_an4
from tests.experiments import run, tiny
from tests.models.voxformer.test_model import CONFORMER
from tests.speech import digits_manifest, write_audio


@pytest.fixture
def features(tmp_path):
    """The folder of a manifest of features."""
    return prepare(Config(folder=str(write_an4(tmp_path / "corpus"))), tmp_path / "features", workers=1).folder


def spelling_features(folder, manifest, **data) -> ExperimentConfig:
    """A VoxFormer for features and two steps of training."""
    decoder = {"layers": 1, "heads": 2, "feedforward_width": 24}
    return decode({
        "model": {"kind": "voxformer", "frontend": {"kind": "features", "channels": 4}, "encoder": CONFORMER,
                  "decoder": decoder},
        "task": {"kind": "hybrid", "max_new_tokens": 20},
        "data": {"datasets": {"an4": {"manifest": str(manifest), "eval_split": "dev"}}, **data},
        "training": {"output_dir": str(folder / "run"), "max_steps": 2, "batch_seconds": 3.0, "device": "cpu",
                     "dataloader_num_workers": 0, "logging_steps": 1}})


def test_a_model_for_features_learns_from_them_and_is_evaluated_on_them(features, tmp_path):
    augment = {"speeds": [0.9, 1.1], "spec_augment": {"time_width": 5}}
    outcome, events = run(spelling_features(tmp_path, features, augment=augment))
    assert outcome.reason == "finished"
    assert [event.step for event in events if event.kind == "train"] == [1, 2]
    assert any(event.kind == "eval" and event.values["dataset"] == "an4" for event in events)
    found = CliRunner().invoke(app, ["eval", str(tmp_path / "run"), "--split", "dev", "--device", "cpu", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["evaluations"][0]["utterances"] == 3


def test_a_model_for_features_hears_no_audio(features, tmp_path):
    with pytest.raises(ConfigError, match=r"data set 'an4': holds audio, .* takes features of 13 values"):
        run(spelling_features(tmp_path, digits_manifest(tmp_path).folder,
                              datasets={"an4": {"manifest": str(tmp_path / "manifest"), "eval_split": "test"}}))
    run(spelling_features(tmp_path / "b", features))
    with pytest.raises(UsageError, match="takes features of 13 values"):
        list(transcribe(open_model(str(tmp_path / "b" / "run")), [write_audio(tmp_path / "a.wav")]))
    found = CliRunner().invoke(app, ["eval", str(tmp_path / "b" / "run"), "--data", str(tmp_path / "manifest")])
    assert found.exit_code == 2
    assert "holds audio" in found.stderr


def test_gain_is_nothing_for_features(features, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.augment\.gain_db: changes audio"):
        run(spelling_features(tmp_path, features, augment={"gain_db": [-6, 6]}))


def test_features_are_nothing_for_a_model_of_audio(features, tmp_path):
    data = {"datasets": {"an4": {"manifest": str(features)}}}
    with pytest.raises(ConfigError, match=r"data set 'an4': holds features of 13 values, .* takes audio"):
        run(tiny(tmp_path, manifest=features, data=data))

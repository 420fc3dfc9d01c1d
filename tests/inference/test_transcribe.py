import json
import subprocess
import sys
from pathlib import Path

import pytest

from auricle.core.errors import ModelError, UsageError
from auricle.data.audio import AudioProblem
from auricle.inference.load import folder_of, open_model
from auricle.inference.transcribe import pick_device, transcribe
from tests.experiments import run, tiny
from tests.speech import digits_manifest, write_audio


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(tiny(folder, manifest=digits_manifest(folder).folder, max_steps=3))
    return folder / "run"


def test_a_clip_is_transcribed_alike_alone_and_among_others(trained, tmp_path):
    clips = [write_audio(tmp_path / f"{n}.wav", seconds=0.3 + 0.21 * n, pitch=150.0 + 60 * n) for n in range(10)]
    model = open_model(str(trained))
    together = [one.text for one in transcribe(model, clips)]
    alone = [next(transcribe(model, [clip])).text for clip in clips]
    assert together == alone
    assert [one.path for one in transcribe(model, clips)] == clips


def test_each_checkpoint_and_the_run_itself_are_models(trained):
    for folder in (trained, *sorted((trained / "checkpoints").glob("step-*"))):
        assert open_model(str(folder)).task.decoders == ("greedy", "beam")


@pytest.mark.parametrize(("name", "said"), [("outputs/none", "no such folder"), ("nowhere", "no such folder")])
def test_a_model_that_is_not_there_is_said(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    with pytest.raises(ModelError, match=said):
        folder_of(name)


def test_a_folder_without_a_model_names_what_is_near(trained):
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        folder_of(str(trained / "eval"))
    with pytest.raises(ModelError, match=r"Models there: .*run"):
        folder_of(str(trained.parent / "rum"))


def test_bad_audio_decoders_and_devices_are_sentences(trained, tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    model = open_model(str(trained))
    with pytest.raises(AudioProblem, match="unreadable"):
        list(transcribe(model, [tmp_path / "text.wav"]))
    with pytest.raises(UsageError, match="no decoder 'gredy'"):
        list(transcribe(model, [tmp_path / "text.wav"], decoder="gredy"))
    with pytest.raises(UsageError, match="no device 'gpu'"):
        pick_device("gpu")


def test_the_command_prints_json(trained, tmp_path):
    clip = write_audio(tmp_path / "a.flac", seconds=0.5, rate=44_100, channels=2)
    command = [sys.executable, "-m", "auricle", "transcribe", str(trained), str(clip), "--json", "--decoder", "beam"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["seconds"] == 0.5

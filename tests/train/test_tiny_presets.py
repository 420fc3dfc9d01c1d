"""Every preset of the course without a network: the classes and the code path of the real one, for a few steps."""

import json

import pytest

from auricle.core.compose import compose
from auricle.core.decode import decode
from auricle.core.errors import ConfigError
from auricle.core.events import read
from auricle.inference.load import open_model
from auricle.tasks.parts.assembly import Assembly
from auricle.train.run_folder import Start
from auricle.train.start import train
from tests.speech import write_audio
from tests.utterances import words


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working directory with ten tones, the last two of them for evaluation."""
    monkeypatch.chdir(tmp_path)
    rows = [{"audio": str(write_audio(tmp_path / f"{number}.wav", 0.4 + 0.1 * number)), "text": "open gates"[:number]}
            for number in range(1, 11)]
    for name, part in (("train", rows[:-2]), ("dev", rows[-2:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return tmp_path


def trained(home, *overrides: str) -> Assembly:
    files = "{train: train.jsonl, dev: dev.jsonl}"
    settings = [*overrides, "data=default", "training=mac_override", "~data.datasets.commands",
                f"data.datasets.tones.source={{kind: jsonl, files: {files}}}", "training.max_steps=2",
                "training.dataloader_num_workers=0", "training.device=cpu", f"training.output_dir={home / 'run'}",
                "task.max_new_tokens=4"]
    train(decode(compose(settings)), Start(experiment="", command="", config_yaml=""))
    steps = [event.step for event in read(home / "run" / "events.jsonl") if event.kind == "train"]
    assert steps == [1, 2]
    return open_model(str(home / "run"))


@pytest.mark.parametrize(("experiment", "model"), [
    ("transcribe_whisper", "whisper_turbo_tiny"), ("transcribe_hubert", "large_tiny"),
    ("transcribe_hubert", "hubert_large_tiny")])
def test_an_experiment_of_the_course_trains_its_projector_and_its_folder_answers(home, experiment, model):
    made = trained(home, f"+experiments={experiment}", f"model={model}")
    assert {path.name for path in (home / "run").glob("*.safetensors")} == {"projector.safetensors"}
    assert len(made.task.predict(made.model, made.task.collate(words(2)))) == 2


@pytest.mark.parametrize("kind", ["mlp", "residual", "moe", "shared_moe", "qformer"])
def test_every_projector_trains_between_the_same_parts(home, kind):
    made = trained(home, "+experiments=transcribe_whisper", "model=whisper_turbo_tiny", f"projector={kind}",
                   "model.encoder_window=trimmed")
    assert made.model_config.projector.kind == kind
    told = [event.values.get("health") for event in read(home / "run" / "events.jsonl") if event.kind == "train"]
    assert all(told) == (kind in ("moe", "shared_moe"))


@pytest.mark.parametrize(("override", "sentence"), [
    ("data.datasets.tones.instruction=emotions", r"tones\.instruction: no 'emotions'; did you mean 'emotion'"),
    ("training.hub_model_id=me/speech", "there is no token for the hub"),
    ("+data.augment.spec_augment={}", "this encoder takes the waveform"),
    ("training.trainable=[projector, decoder]", "component 'decoder' is to train, and its weights are bfloat16"),
])
def test_what_would_fail_later_is_refused_before_the_first_step(home, monkeypatch, override, sentence):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match=sentence):
        trained(home, "+experiments=transcribe_hubert", "model=large_tiny", "+model.decoder.dtype=bfloat16", override)
    assert not list((home / "run").glob("checkpoints/step-*"))


def test_adapters_train_beside_the_projector_and_come_back(home):
    made = trained(home, "+experiments=transcribe_hubert", "model=large_tiny", "+model.lora={rank: 2}",
                   "training.trainable=[projector, lora]")
    assert {path.name for path in (home / "run").glob("*.safetensors")} == {"projector.safetensors", "lora.safetensors"}
    assert "lora" in made.model.components()


THAWED = 'training.trainable=["frontend.top(1)", adapter, encoder, decoder, ctc_head]'


@pytest.mark.parametrize(("overrides", "last"), [
    (["model=voxformer_wave_tiny", THAWED], "Unfroze WavLM layers: [3]"),
    (["model=voxformer_wave_tiny", "training.trainable=[adapter, ctc_head]"], "All 4 WavLM layers are frozen"),
    (["model=voxformer_tiny"], "  Total: ")])
def test_a_voxformer_trains_says_its_size_and_its_folder_answers(home, overrides, last):
    made = trained(home, *overrides)
    stage, = (event for event in read(home / "run" / "events.jsonl") if event.kind == "stage")
    learning = sum(p.numel() for p in made.model.parameters()) if last.startswith("  ") else stage.values["trainable"]
    assert learning == stage.values["trainable"]
    assert f"{learning:,}" in next(line for line in stage.values["summary"] if line.startswith("  Total: "))
    assert stage.values["summary"][-1].startswith(last)
    told = (home / "run" / "trainer_log.txt").read_text(encoding="utf-8")
    assert "\n".join(stage.values["summary"]) in told
    assert len(made.task.predict(made.model, made.task.collate(words(2)))) == 2

import json
from pathlib import Path

import pytest
import torch

from auricle.core.compose import compose
from auricle.core.decode import decode
from auricle.core.errors import ConfigError
from auricle.core.events import read
from auricle.data.frames import Frames, FramesWriter, describe
from auricle.tasks.chat.task import ChatTask
from auricle.train.run_folder import Start
from auricle.train.start import train
from tests.speech import write_audio

TINY = ["model=whisper_turbo_tiny", "model.encoder.config={d_model: 16, encoder_layers: 1, encoder_attention_heads: 2, "
        "encoder_ffn_dim: 16, num_mel_bins: 80}", "model.encoder_window=trimmed", "task.normalizer=basic",
        "training.trainable=[projector]", "training.max_steps=4", "training.batch_seconds=6",
        "training.logging_steps=1", "training.dataloader_num_workers=0", "training.eval_steps=null",
        "training.device=cpu", "~data.datasets.commands"]


def losses(folder: Path, *more: str) -> list[float]:
    overrides = [*TINY, f"training.output_dir={folder}", *more]
    train(decode(compose(overrides)), Start(experiment="", command="", config_yaml=""))
    return [event.values["loss"] for event in read(folder / "events.jsonl") if event.kind == "train"]


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> str:
    """A typed data section: ten tones."""
    monkeypatch.chdir(tmp_path)
    rows = [{"audio": str(write_audio(tmp_path / f"{number}.wav", 0.4 + 0.1 * number)), "text": "open gates"[:number]}
            for number in range(1, 11)]
    (tmp_path / "tones.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "data.datasets={tones: {source: {kind: jsonl, files: {train: tones.jsonl}}, eval_split: null}}"


def test_training_is_the_same_with_and_without_and_the_second_run_finds_the_frames(corpus, tmp_path):
    plain = losses(tmp_path / "plain", corpus)
    cached = losses(tmp_path / "cached", corpus, "training.cache_frozen=true")
    assert cached == pytest.approx(plain, rel=1e-5)
    folder, = (tmp_path / "data").glob("frames-*")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert losses(tmp_path / "again", corpus, "training.cache_frozen=true") == cached
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    kinds = [event.kind for event in read(tmp_path / "again" / "events.jsonl")]
    assert "caching" not in kinds


def test_another_encoder_gets_frames_of_its_own(corpus, tmp_path):
    losses(tmp_path / "one", corpus, "training.cache_frozen=true")
    losses(tmp_path / "two", corpus, "training.cache_frozen=true", "training.seed=7")
    assert len(list((tmp_path / "data").glob("frames-*"))) == 2


def test_a_wave_encoder_that_normalises_has_other_frames_than_one_that_does_not(corpus, tmp_path):
    hubert = ["model=hubert_large_tiny", "~model.encoder.config", "+model.encoder.config={hidden_size: 16, "
              "num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16, conv_dim: [8, 8, 8, 8, 8, 8, 8], "
              "num_conv_pos_embeddings: 4, num_conv_pos_embedding_groups: 2}", "training.cache_frozen=true"]
    for normalize in ("true", "false"):
        settings = [word for word in TINY if not word.startswith("model")]
        overrides = [*settings, *hubert, f"model.encoder.normalize={normalize}", corpus,
                     f"training.output_dir={tmp_path / normalize}"]
        train(decode(compose(overrides)), Start(experiment="", command="", config_yaml=""))
    assert len(list((tmp_path / "data").glob("frames-*"))) == 2


def test_a_row_that_cannot_be_read_is_rejected_as_without_frames(corpus, tmp_path):
    losses(tmp_path / "before", corpus)  # prepares
    (tmp_path / "3.wav").write_text("no longer audio")
    more = (corpus, "data.max_rejected=0.5", "training.num_train_epochs=1")
    plain = losses(tmp_path / "plain", *more)
    assert losses(tmp_path / "cached", *more, "training.cache_frozen=true") == pytest.approx(plain, rel=1e-5)
    for run in ("plain", "cached"):
        listed = [row for event in read(tmp_path / run / "events.jsonl") if event.kind == "rejected"
                  for row in event.values["listed"]]
        assert {reason for _, reason, _ in listed} == {"unreadable"}


@pytest.mark.parametrize(("override", "sentence"), [
    ("training.trainable=[encoder, projector]", "stage main: cache_frozen: no frozen encoder"),
    ("+data.augment.gain_db=[-3, 3]", r"cache_frozen: data\.augment\.gain_db gives the encoder another input"),
])
def test_what_is_random_or_trained_is_refused(corpus, tmp_path, override, sentence):
    with pytest.raises(ConfigError, match=sentence):
        losses(tmp_path / "run", corpus, "training.cache_frozen=true", override)


def test_a_task_that_reads_no_frames_is_refused(corpus, tmp_path, monkeypatch):
    monkeypatch.delattr(ChatTask, "takes_frames")
    with pytest.raises(ConfigError, match="cache_frozen: the task 'chat' reads no frames from disk"):
        losses(tmp_path / "run", corpus, "training.cache_frozen=true")


def test_more_than_half_of_the_free_disk_is_refused_before_anything_is_computed(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("auricle.train.frozen_cache.shutil.disk_usage", lambda _: type("Disk", (), {"free": 100}))
    with pytest.raises(ConfigError, match=r"more than half of the 0\.0 GB that are free"):
        losses(tmp_path / "run", corpus, "training.cache_frozen=true")
    assert not list((tmp_path / "data").glob("*frames-*"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_come_back_as_they_were_from_the_parts_of_several_ranks(tmp_path, dtype):
    frames = {row: torch.randn(row, 3).to(dtype) for row in (4, 0, 2, 7)}
    parts = []
    for rank, rows in enumerate(([4, 0], [2, 7])):
        writer = FramesWriter(tmp_path, rank)
        for row in rows:
            writer.add(row, frames[row])
        writer.close()
        parts.append((writer.rows, writer.lengths))
    describe(tmp_path, parts, rows=8, width=3, dtype=dtype)
    assert json.loads((tmp_path / "frames.json").read_text())["width"] == 3
    found = Frames(tmp_path)
    for row, expected in frames.items():
        assert torch.equal(found[row], expected)
    assert found[5].shape == (0, 3)

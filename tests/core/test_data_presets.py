"""The data sets that ship with the package: each composes, decodes and streams; nothing is fetched."""

from pathlib import Path

import pytest

from auricle.core.compose import compose
from auricle.core.decode import decode
from auricle.data.sources import an4, librispeech, parquet
from tests.paths import ROOT

STREAMED = sorted(path.stem for path in (ROOT / "configs/hydra/data").glob("*.yaml") if "kind: parquet" in
                  path.read_text(encoding="utf-8"))
ALONE = {"loquacious_clean": 1000, "loquacious_medium": 10_000, "loquacious_large": 10_000, "librispeech": 1000,
         "gigaspeech": 1000, "common_voice": 1000, "peoples_speech": 1000, "tedlium": 1000, "ami": 1000,
         "earnings22": 1000}


def data_of(name: str, tmp_path: Path):
    return decode(compose([f"data={name}"], user_folder=tmp_path)).data


def test_the_presets_are_those_that_people_know():
    assert sorted([*ALONE, "combined", "multi_task_complete"]) == STREAMED


@pytest.mark.parametrize("name", STREAMED)
def test_a_preset_streams_its_training_split_and_has_one_to_evaluate(name, tmp_path):
    for entry in data_of(name, tmp_path).datasets.values():
        assert isinstance(entry.source, parquet.Config)
        assert entry.source.streams
        assert {entry.train_split, entry.eval_split} <= set(entry.source.splits)
        assert all(file.startswith("hf://datasets/") for files in entry.source.splits.values() for file in files)


@pytest.mark.parametrize(("name", "cap"), ALONE.items())
def test_a_corpus_is_one_data_set_of_its_name(name, cap, tmp_path):
    data = data_of(name, tmp_path)
    assert list(data.datasets) == [name]
    assert data.max_eval_samples == cap


def test_corpora_on_disk_are_named_by_their_folder(tmp_path):
    letters = data_of("an4", tmp_path)
    assert letters.datasets["an4"].source == an4.Config(folder="an4")
    assert letters.augment.gain_db is letters.augment.noise is None
    books = data_of("librispeech_100", tmp_path).datasets["librispeech"]
    assert books.source == librispeech.Config(folder="LibriSpeech", complete=True, splits={
        "train": ["train-clean-100"], "dev": ["dev-clean"]})
    assert (books.train_split, books.eval_split) == ("train", "dev")


def test_the_mix_of_nine_is_in_equal_parts(tmp_path):
    data = data_of("combined", tmp_path)
    assert len(data.datasets) == 9
    assert {entry.weight for entry in data.datasets.values()} == {0.111}
    assert (data.max_seconds, data.max_eval_samples) == (15.0, 3000)


def test_the_mix_of_tasks_asks_for_three_things_by_weight(tmp_path):
    data = data_of("multi_task_complete", tmp_path)
    assert [(entry.weight, entry.instruction) for entry in data.datasets.values()] == [
        (0.85, "transcribe"), (0.10, "describe"), (0.05, "emotion")]
    assert data.max_eval_samples == 500

import pytest

from auricle.core.errors import DataError
from auricle.data.sources.fsdd import Config, candidates
from tests.speech import digits, write_audio, write_digits


def sample(folder):
    """A small config of this source, for the contract."""
    return Config(folder=str(write_digits(folder, recordings=6)))


def by_split(config):
    found = {}
    for candidate in candidates(config):
        found.setdefault(candidate.split, []).append(candidate)
    return found


def test_the_official_split_tests_on_recordings_0_to_4(tmp_path):
    splits = by_split(Config(folder=str(digits(tmp_path))))
    numbers = {split: {int(c.id.rpartition("_")[2]) for c in rows} for split, rows in splits.items()}
    assert set(splits) == {"train", "test"}
    assert numbers["test"] == {0, 1, 2, 3, 4}
    assert min(numbers["train"]) == 5
    speakers = {c.speaker for rows in splits.values() for c in rows}
    assert len(splits["test"]) == 10 * 5 * len(speakers)


def test_the_text_is_the_word_of_the_digit(tmp_path):
    texts = {c.id: c.text for c in candidates(Config(folder=str(write_digits(tmp_path, recordings=1))))}
    assert texts["0_anna_0"] == "zero"
    assert texts["9_ben_0"] == "nine"


def test_named_speakers_are_the_test_set_whole(tmp_path):
    splits = by_split(Config(folder=str(write_digits(tmp_path)), test_speakers=["ben"]))
    assert {c.speaker for c in splits["test"]} == {"ben"}
    assert {c.speaker for c in splits["train"]} == {"anna"}
    assert len(splits["test"]) == len(splits["train"]) == 70


def test_dev_recordings_come_from_training(tmp_path):
    splits = by_split(Config(folder=str(write_digits(tmp_path)), dev_recordings=[0, 6]))
    assert {c.id.rpartition("_")[2] for c in splits["dev"]} == {"6"}
    assert len(splits["test"]) == 100


def test_an_unknown_speaker_and_a_foreign_file_are_named(tmp_path):
    write_digits(tmp_path, recordings=1)
    with pytest.raises(DataError, match="no recording by carl"):
        list(candidates(Config(folder=str(tmp_path), test_speakers=["ben", "carl"])))
    write_audio(tmp_path / "recordings" / "hello.wav")
    with pytest.raises(DataError, match=r"hello\.wav is not named DIGIT_SPEAKER_NUMBER"):
        list(candidates(Config(folder=str(tmp_path))))

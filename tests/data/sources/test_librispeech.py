import csv
import shutil

import pytest

from auricle.core.errors import DataError
from auricle.data.prepare import prepare
from auricle.data.sources.librispeech import Config, candidates
from tests.paths import DATA
from tests.speech import write_audio

REAL = DATA / "librispeech"


def utterances(folder):
    """(id, text, flac) of six real utterances, or of tones."""
    if REAL.is_dir():
        with (REAL / "manifest.tsv").open(encoding="utf-8") as rows:
            found = [row for row in csv.DictReader(rows, delimiter="\t", quoting=csv.QUOTE_NONE) if row["text"]]
        return [((REAL / row["path"]).stem, row["text"].upper(), REAL / row["path"]) for row in found[::10]]
    return [(f"{speaker}-7-{n:04d}", "OPEN THE GATE", write_audio(folder / f"{speaker}-7-{n:04d}.flac", 1.0))
            for speaker in (11, 22, 33) for n in range(2)]


def tree(folder):
    """The layout as it is unpacked: the first half of the utterances is train-clean-100, the rest dev-clean."""
    rows = utterances(folder / "made")
    shutil.rmtree(folder / "train-clean-100", ignore_errors=True)
    shutil.rmtree(folder / "dev-clean", ignore_errors=True)
    for place, (name, text, flac) in enumerate(rows):
        speaker, chapter, _ = name.split("-")
        chapter_folder = folder / ("train-clean-100" if place < len(rows) / 2 else "dev-clean") / speaker / chapter
        chapter_folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(flac, chapter_folder / f"{name}.flac")
        with (chapter_folder / f"{speaker}-{chapter}.trans.txt").open("a") as transcript:
            transcript.write(f"{name} {text}\n")
    return folder


SPLITS = {"train": ["train-clean-100"], "dev": ["dev-clean"]}


def sample(folder):
    """A small config of this source, for the contract."""
    return Config(folder=str(tree(folder)), splits=SPLITS)


def test_each_line_of_a_transcript_is_an_utterance(tmp_path):
    expected = {name: text for name, text, _ in utterances(tmp_path / "made")}
    found = list(candidates(sample(tmp_path)))
    assert {c.id: c.text for c in found} == expected
    assert all(c.audio.is_file() and c.audio.stem == c.id and c.speaker == c.id.split("-")[0] for c in found)
    assert {c.split for c in found} == {"train", "dev"}


def test_several_subsets_make_one_split(tmp_path):
    found = list(candidates(Config(folder=str(tree(tmp_path)), splits={"train": ["dev-clean", "train-clean-100"]})))
    assert {c.split for c in found} == {"train"}
    assert len(found) == len(utterances(tmp_path / "made"))


def test_a_missing_subset_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(DataError, match="did you mean 'train-clean-100'"):
        list(candidates(Config(folder=str(tree(tmp_path)), splits={"train": ["train-clean-10"]})))


def test_what_was_not_unpacked_whole_is_counted(tmp_path):
    config = sample(tmp_path / "corpus")
    audio = [candidate.audio for candidate in candidates(config)]
    audio[0].unlink()
    content = audio[1].read_bytes()
    audio[1].write_bytes(content[: len(content) // 2])
    shutil.copy(audio[2], audio[2].with_stem(audio[2].stem[:-4] + "9999"))
    lonely = tmp_path / "corpus" / "train-clean-100" / "99" / "1" / "99-1-0000.flac"
    lonely.parent.mkdir(parents=True)
    shutil.copy(audio[2], lonely)
    manifest = prepare(config, tmp_path / "m", workers=2, max_rejected=1.0)
    rejected = {rejection.id: rejection.reason for rejection in manifest.rejections}
    assert rejected == {audio[0].stem: "missing_file", audio[1].stem: "unreadable", lonely.stem: "empty_transcript",
                        audio[2].stem[:-4] + "9999": "empty_transcript"}
    assert len(manifest) == len(audio) - 2


def test_a_flipped_bit_of_the_audio_is_noticed(tmp_path):
    config = sample(tmp_path / "corpus")
    flac = next(iter(candidates(config))).audio
    content = bytearray(flac.read_bytes())
    content[len(content) // 2] ^= 1
    flac.write_bytes(content)
    manifest = prepare(config, tmp_path / "m", workers=1, max_rejected=1.0)
    assert [(r.id, r.reason) for r in manifest.rejections] == [(flac.stem, "unreadable")]


def test_a_subset_can_be_held_to_its_number_of_utterances(tmp_path, monkeypatch):
    config = sample(tmp_path).model_copy(update={"complete": True})
    found = list(candidates(sample(tmp_path)))
    with pytest.raises(DataError, match=r"\d utterances in .*train-clean-100; expected 28539\. Unpack its archive"):
        list(candidates(config))
    counts = {name: sum(name in str(c.audio) for c in found) for name in ("train-clean-100", "dev-clean")}
    monkeypatch.setattr("auricle.data.sources.librispeech.UTTERANCES", counts)
    assert list(candidates(config)) == found

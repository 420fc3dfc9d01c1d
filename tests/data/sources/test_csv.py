import pytest

from auricle.core.errors import DataError
from auricle.data.sources.csv import Config, candidates
from tests.paths import DATA
from tests.speech import write_audio

REAL = DATA / "librispeech" / "manifest.tsv"


def listed(folder, name, *lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return list(candidates(Config(files={"train": str(folder / name)})))


def sample(folder):
    """A small config of this source, for the contract."""
    for name in ("a", "b"):
        write_audio(folder / f"{name}.wav")
    listed(folder, "train.csv", "wav,text,speaker", 'a.wav,"open, then close",anna', "b.wav,go,ben")
    return Config(files={"train": str(folder / "train.csv")})


@pytest.mark.parametrize("lines", [
    ("wav,text", 'clips/a.wav,"open, then close"'),
    ("text,wav", '"open, then close",clips/a.wav'),
    ("Text, Path,mood", '"open, then close",clips/a.wav,calm'),
])
def test_columns_come_in_any_order(tmp_path, lines):
    candidate, = listed(tmp_path, "a.csv", *lines)
    assert (candidate.text, candidate.audio) == ("open, then close", tmp_path / "clips" / "a.wav")


def test_further_columns_are_known(tmp_path):
    head = "id,wav,text,speaker,language,prompt,start,stop,duration"
    candidate, = listed(tmp_path, "a.csv", head, "7,a.wav,go,anna,en,now,0.5,1.5,1.0")
    assert (candidate.id, candidate.speaker, candidate.language) == ("7", "anna", "en")
    assert (candidate.start, candidate.stop, candidate.extra["prompt"]) == (0.5, 1.5, "now")


@pytest.mark.parametrize("row", ["a.wav,hello", "hello,a.wav"])
def test_two_columns_need_no_header_when_the_audio_is_there(tmp_path, row):
    write_audio(tmp_path / "a.wav")
    candidate, = listed(tmp_path, "a.csv", row)
    assert (candidate.text, candidate.audio) == ("hello", tmp_path / "a.wav")


def test_a_tab_separated_text_may_begin_with_a_quote(tmp_path):
    first, second = listed(tmp_path, "a.tsv", "path\ttext", 'a.wav\t"no, she said', "b.wav\tyes")
    assert (first.text, second.text) == ('"no, she said', "yes")


@pytest.mark.parametrize(("lines", "sentence"), [
    (("file,words", "a.wav,go"), "a.csv:1: no header and no audio that exists: file, words"),
    (("wav,text", "a.wav,open, then close"), "a.csv:2: 3 columns; expected 2"),
    (("wav,text", "a.wav,go", ",stop"), "a.csv:3: no field for audio"),
])
def test_a_bad_row_is_named(tmp_path, lines, sentence):
    with pytest.raises(DataError, match=sentence):
        listed(tmp_path, "a.csv", *lines)


def test_an_empty_file_has_no_candidates(tmp_path):
    assert listed(tmp_path, "a.csv") == []


def test_a_published_table_is_read(tmp_path):
    if REAL.is_file():
        found = list(candidates(Config(files={"test": str(REAL)})))
    else:
        found = listed(tmp_path, "a.tsv", "path\ttext\tspeaker", *(f"{n}.flac\tgo\t{n % 6}" for n in range(60)))
    assert len({c.speaker for c in found if c.text}) == 6
    assert len({c.id for c in found}) == len(found)

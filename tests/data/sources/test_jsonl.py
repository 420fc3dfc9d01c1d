import json

import pytest

from auricle.core.errors import DataError
from auricle.data.sources.jsonl import Config, candidates
from tests.speech import write_audio


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows))
    return str(path)


def sample(folder):
    """A small config of this source, for the contract."""
    for name in ("a", "b", "c"):
        write_audio(folder / "clips" / f"{name}.wav")
    return Config(files={
        "train": write(folder / "train.jsonl", {"audio": "clips/a.wav", "text": "open the gate", "duration": 0.5},
                       {"audio_path": str(folder / "clips" / "b.wav"), "text": "שלום", "speaker": "anna",
                        "language": "he"}),
        "dev": write(folder / "dev.jsonl", {"audio": "clips/c.wav", "text": "close it", "prompt": "transcribe"})})


def test_paths_start_at_the_file_that_names_them(tmp_path):
    first, second, third = candidates(sample(tmp_path))
    assert [c.audio for c in (first, second, third)] == [tmp_path / "clips" / f"{name}.wav" for name in "abc"]
    assert (first.id, third.id) == ("clips/a", "clips/c")
    assert (second.text, second.speaker, second.language, second.split) == ("שלום", "anna", "he", "train")
    assert (third.split, dict(third.extra)) == ("dev", {"prompt": "transcribe"})


def test_segments_of_one_file_are_named_by_their_start(tmp_path):
    rows = [{"audio": "long.wav", "text": "one", "start": 0, "stop": 2.5},
            {"audio": "long.wav", "text": "two", "start": 2.5}]
    found = list(candidates(Config(files={"train": write(tmp_path / "a.jsonl", *rows)})))
    assert [(c.id, c.start, c.stop) for c in found] == [("long@0", 0.0, 2.5), ("long@2.5", 2.5, None)]


def test_blank_lines_are_passed_over_and_null_is_no_text(tmp_path):
    config = Config(files={"train": write(tmp_path / "a.jsonl", "", {"audio": "a.wav", "text": None, "id": 7}, "  ")})
    assert [(c.id, c.text) for c in candidates(config)] == [("7", "")]


@pytest.mark.parametrize(("line", "sentence"), [
    ("{'audio': 1}", r"a.jsonl:2: not JSON"),
    ('["a.wav", "x"]', r"a.jsonl:2: .* is no object"),
    ('{"file": "a.wav", "text": "x"}', r"a.jsonl:2: no field for audio .*found file, text"),
    ('{"audio": "a.wav", "sentence": "x"}', r"a.jsonl:2: no field for 'text'; found audio, sentence"),
    ('{"audio": "a.wav", "text": "x", "start": "soon"}', r"a.jsonl:2: start is 'soon'; expected seconds"),
])
def test_a_bad_line_is_named(tmp_path, line, sentence):
    config = Config(files={"train": write(tmp_path / "a.jsonl", {"audio": "b.wav", "text": "y"}, line)})
    with pytest.raises(DataError, match=sentence):
        list(candidates(config))


def test_a_missing_file_and_another_encoding_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no file '.*nowhere.jsonl'.*split 'dev'"):
        list(candidates(Config(files={"dev": str(tmp_path / "nowhere.jsonl")})))
    (tmp_path / "latin.jsonl").write_bytes('{"audio": "a.wav", "text": "café"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.jsonl: not UTF-8"):
        list(candidates(Config(files={"train": str(tmp_path / "latin.jsonl")})))

from auricle.data.prepare import prepare
from auricle.data.sources.folder import Config, candidates
from tests.speech import write_audio


def clip(path, text):
    write_audio(path)
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")


def sample(folder):
    """A small config of this source, for the contract."""
    clip(folder / "train" / "anna" / "a.wav", "open the gate\n")
    clip(folder / "dev" / "b.flac", "שלום")
    clip(folder / "c.MP3", "go")
    return Config(folder=str(folder), language="en")


def test_the_transcript_lies_beside_the_audio(tmp_path):
    found = {c.id: c for c in candidates(sample(tmp_path))}
    assert {name: c.text for name, c in found.items()} == {"train/anna/a": "open the gate", "dev/b": "שלום", "c": "go"}
    assert {name: c.split for name, c in found.items()} == {"train/anna/a": "train", "dev/b": "dev", "c": "train"}
    assert {c.language for c in found.values()} == {"en"}


def test_audio_without_a_transcript_is_counted(tmp_path):
    clip(tmp_path / "corpus" / "a.wav", "go")
    clip(tmp_path / "corpus" / "b.wav", None)
    manifest = prepare(Config(folder=str(tmp_path / "corpus")), tmp_path / "m", workers=1, max_rejected=0.5)
    assert [(r.id, r.reason) for r in manifest.rejections] == [("b", "empty_transcript")]


def test_other_files_are_passed_over(tmp_path):
    clip(tmp_path / "a.wav", "go")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "notes.txt").write_text("no audio beside it")
    assert [c.id for c in candidates(Config(folder=str(tmp_path)))] == ["a"]

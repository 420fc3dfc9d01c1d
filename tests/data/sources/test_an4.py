import pytest

from auricle.core.errors import DataError
from auricle.data.features import Layout
from auricle.data.prepare import prepare
from auricle.data.sources.an4 import Config, candidates
from tests.corpora import an4, write_an4
from tests.speech import write_audio


def sample(folder):
    """A small config of this source, for the contract."""
    return Config(folder=str(write_an4(folder)))


def test_a_tenth_of_the_speakers_is_held_out_and_always_the_same(tmp_path):
    config = Config(folder=str(an4(tmp_path)))
    found = list(candidates(config))
    speakers = {split: {c.speaker for c in found if c.split == split} for split in ("train", "dev")}
    everyone = len(speakers["train"] | speakers["dev"])
    assert not speakers["train"] & speakers["dev"]
    assert len(speakers["dev"]) == max(1, round(everyone / 10))
    assert {c.speaker for c in candidates(config) if c.split == "dev"} == speakers["dev"]
    assert {c.split for c in candidates(Config(folder=config.folder, held_out=0.0))} == {"train"}


def test_the_held_out_speakers_follow_from_their_names(tmp_path):
    found = candidates(Config(folder=str(write_an4(tmp_path, speakers=9)), held_out=0.3))
    assert {c.speaker for c in found if c.split == "dev"} == {"tr4", "tr6", "tr8"}


def test_each_utterance_has_its_transcript_and_its_features(tmp_path):
    found = list(candidates(Config(folder=str(an4(tmp_path)))))
    assert all(c.audio.path.is_file() and c.audio.layout == Layout(13, 100.0) for c in found)
    assert all(c.id.endswith(c.audio.path.stem) and f"/{c.speaker}/" in c.id for c in found)
    assert "(" not in "".join(c.text for c in found)
    assert all(c.text.strip() == c.text != "" for c in found)


def test_the_whole_corpus_is_prepared(tmp_path):
    manifest = prepare(Config(folder=str(an4(tmp_path / "corpus"))), tmp_path / "m", workers=1)
    frames = sum(path.stat().st_size // 52 for path in an4(tmp_path / "corpus").rglob("*.mfc"))
    assert manifest.seconds.sum() == pytest.approx(frames / 100)
    assert manifest.summary["rejected"] == {}
    assert manifest.layouts == {Layout()}


def test_the_official_test_set_is_the_split_test(tmp_path):
    write_an4(tmp_path)
    write_an4(tmp_path, speakers=2, name="an4_test")
    found = [c for c in candidates(Config(folder=str(tmp_path))) if c.split == "test"]
    assert len(found) == 6
    assert {c.speaker for c in found} == {"te0", "te1"}


def test_marks_of_silence_are_no_words_and_equal_names_stay_apart(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "an4_train.fileids").write_text("a/x/one\nb/y/one\n")
    (tmp_path / "etc" / "an4_train.transcription").write_text("<s> YES </s> (one)\n<s> NO NO </s> (b/y/one)\n")
    found = list(candidates(Config(folder=str(tmp_path))))
    assert [(c.id, c.text, c.speaker) for c in found] == [("a/x/one", "YES", "x"), ("b/y/one", "NO NO", "y")]


def test_the_audio_is_taken_where_the_corpus_comes_with_it(tmp_path):
    write_an4(tmp_path, speakers=2, each=1)
    paths = [write_audio(tmp_path / "wav" / "an4_clstk" / f"tr{n}" / f"cen0-tr{n}-b.wav") for n in range(2)]
    assert [c.audio for c in candidates(Config(folder=str(tmp_path), signal="audio"))] == paths


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("an4_train.transcription", "YES (another)\n", "'YES .another.' is no transcript of an4_clstk/tr0/cen0-tr0-b"),
    ("an4_train.transcription", "YES\n", "'YES' is no transcript"),
    ("an4_train.fileids", "", "has 0 lines and .* 1"),
])
def test_lists_that_do_not_go_together_are_refused(tmp_path, name, content, sentence):
    write_an4(tmp_path, speakers=1, each=1)
    (tmp_path / "etc" / name).write_text(content)
    with pytest.raises(DataError, match=sentence):
        list(candidates(Config(folder=str(tmp_path))))


def test_a_folder_without_lists_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no file '.*an4_train\.fileids'"):
        list(candidates(Config(folder=str(tmp_path))))

import importlib.util
import re
import shutil

import numpy as np
import pytest
import soundfile

from auricle.core.decode import decode_block
from auricle.core.errors import ConfigError, DataError, MissingExtra
from auricle.data.audio import read_audio
from auricle.data.manifest import Manifest
from auricle.data.prepare import prepare
from auricle.data.sources import synth
from auricle.data.sources.synth import Config, Text, candidates, render
from tests.paths import ROOT

HAVE_ESPEAK = importlib.util.find_spec("espeakng_loader") is not None
SMALL = {"utterances": 12, "dev_utterances": 4, "test_utterances": 4}

pytestmark = pytest.mark.skipif(not HAVE_ESPEAK, reason="the extra [synth] is not installed")


def sample(folder):
    """A small config of this source, for the contract."""
    return Config(utterances=6, dev_utterances=2, test_utterances=2)


def by_split(config):
    found = {}
    for candidate in candidates(config):
        found.setdefault(candidate.split, []).append(candidate)
    return found


def test_voices_and_sentences_of_the_test_are_never_heard_in_training():
    splits = by_split(Config(utterances=2000))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 2000, "dev": 200, "test": 400}
    for heard in (lambda c: c.speaker, lambda c: c.speaker.partition("+")[2], lambda c: c.text):
        train, dev, test = (set(map(heard, splits[name])) for name in ("train", "dev", "test"))
        assert not train & dev
        assert not train & test
        assert not dev & test


def test_there_are_many_voices_and_each_is_heard_alike():
    splits = by_split(Config(utterances=1500))
    assert len({c.speaker for rows in splits.values() for c in rows}) >= 90
    counts = np.unique([c.speaker.partition("+")[2] for c in splits["train"]], return_counts=True)[1]
    assert counts.max() - counts.min() <= 1


def test_whispers_and_robots_are_left_out_but_can_be_asked_for():
    assert not {c.speaker.partition("+")[2] for c in candidates(Config(utterances=500))} & synth.NOT_SPEECH
    config = Config(**SMALL, variants=["whisper", "robosoft", "f3", "m3"], dev_voices=1, test_voices=1)
    assert len({c.speaker.partition("+")[2] for c in candidates(config)}) == 4


def test_the_seed_decides():
    first, again, other = (list(candidates(Config(**SMALL, seed=seed))) for seed in (1, 1, 2))
    assert first == again != other


def test_a_split_that_is_not_wanted_holds_nothing_back(tmp_path):
    (tmp_path / "words.txt").write_text("zero\none\n\ntwo\n")
    config = Config(utterances=60, dev_utterances=0, test_utterances=0, text=Text(file=str(tmp_path / "words.txt")))
    splits = by_split(config)
    assert set(splits) == {"train"}
    assert {c.text for c in splits["train"]} == {"zero", "one", "two"}


def test_too_few_sentences_to_hold_out_are_an_error(tmp_path):
    (tmp_path / "words.txt").write_text("zero\n")
    with pytest.raises(DataError, match="no sentence for the split"):
        list(candidates(Config(**SMALL, text=Text(file=str(tmp_path / "words.txt")))))


def test_the_same_utterance_sounds_the_same_whatever_came_before(tmp_path):
    chosen = list(candidates(Config(utterances=2000)))[:300:7]
    once = {c.id: render(Config(), c, tmp_path / "once").read_bytes() for c in chosen}
    again = {c.id: render(Config(), c, tmp_path / "again").read_bytes() for c in reversed(chosen)}
    assert once == again
    assert len(set(once.values())) == len(once)


@pytest.mark.parametrize("variant", ["klatt6", "f3", "Reed", "whisperf"])
def test_noise_in_a_voice_is_the_same_noise_each_time(variant):
    first, rate = synth._speak("open the gate", "en-us", variant, 175, 50)
    synth._speak("go north", "en-gb", "whisper", 120, 80)
    again, _ = synth._speak("open the gate", "en-us", variant, 175, 50)
    np.testing.assert_array_equal(first, again)
    assert rate == 22050
    assert 0.3 < len(first) / rate < 2.0


def test_rate_and_pitch_are_heard():
    def length(words_per_minute):
        return len(synth._speak("attack the north gate", "en-us", "m3", words_per_minute, 50)[0])

    assert length(120) > 1.3 * length(200)

    def pitch(value):
        speech, rate = synth._speak("aaaaah", "en-us", "adam", 150, value)
        middle = speech[len(speech) // 3 : 2 * len(speech) // 3].astype(np.float64)
        correlation = np.correlate(middle, middle, "full")[len(middle) :]
        return rate / (np.argmax(correlation[rate // 400 : rate // 50]) + rate // 400)

    assert pitch(80) > 1.1 * pitch(20)


def test_other_languages_are_spoken(tmp_path):
    (tmp_path / "de.txt").write_text("".join(f"Öffne das {word} Tor\n" for word in ("rote", "blaue", "alte", "neue")))
    config = Config(utterances=2, dev_utterances=0, test_utterances=0, languages=["de"],
                    text=Text(file=str(tmp_path / "de.txt")))
    manifest = prepare(config, tmp_path / "m", workers=1)
    assert manifest.summary["languages"] == {"de": 2}
    assert manifest.seconds.min() > 0.5


@pytest.mark.parametrize(("suffix", "rate"), [("wav", 16000), ("flac", 8000)])
def test_audio_is_written_as_asked(tmp_path, suffix, rate):
    config = Config(**SMALL, format=suffix, sample_rate=rate)
    path = render(config, next(iter(candidates(config))), tmp_path)
    info = soundfile.info(path)
    assert (info.samplerate, info.subtype, info.channels, path.suffix) == (rate, "PCM_16", 1, f".{suffix}")
    audio = read_audio(path, rate)
    assert 0.3 < len(audio) / rate < 10
    assert np.abs(audio).max() > 0.05


def test_worker_processes_make_the_same_corpus_and_it_can_be_moved(tmp_path):
    config = Config(utterances=100, dev_utterances=10, test_utterances=20)
    alone = prepare(config, tmp_path / "alone", workers=1)
    together = prepare(config, tmp_path / "together", workers=2)
    assert alone.fingerprint == together.fingerprint
    moved = Manifest.open(shutil.move(tmp_path / "together", tmp_path / "moved"))
    for i in (0, 129):
        assert moved.row(i).audio.is_relative_to(tmp_path / "moved")
        assert moved.row(i).audio.read_bytes() == alone.row(i).audio.read_bytes()
    assert moved.summary["speakers"] > 100


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"languages": ["en-uk"]}, "no language 'en-uk'; did you mean 'en-us'"),
    ({"variants": ["f33"]}, "no variant 'f33'; did you mean 'f3'"),
    ({"variants": ["f3", "m3"]}, "2 variants, of which 10 are for test and 5 for dev"),
    ({"text": {"grammar": "game_comands"}}, "did you mean 'game_commands'"),
    ({"text": {"file": "nowhere.txt"}}, "no file 'nowhere.txt'"),
    ({"text": {}}, "give either 'grammar'"),
    ({"pitch": [80, 20]}, r"pitch is \[80, 20\]"),
    ({"dev_voices": 0}, "dev_utterances is 200 with dev_voices 0"),
    ({"words_per_minute": [10, 20]}, "words_per_minute"),
])
def test_a_mistake_in_the_config_is_one_sentence(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        list(candidates(decode_block("data.sources", {"kind": "synth", **settings}, "test")))


def test_without_the_extra_the_answer_is_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "espeakng_loader", None)
    synth._espeak_data.cache_clear()
    with pytest.raises(MissingExtra, match=r"pip install 'auricle\[synth\]'"):
        list(candidates(Config(**SMALL)))
    synth._espeak_data.cache_clear()


def test_only_this_source_touches_the_gpl_library():
    importing = re.compile(r"^\s*(import|from)\s+espeakng_loader", re.MULTILINE)
    files = [path.name for path in (ROOT / "src").rglob("*.py") if importing.search(path.read_text(encoding="utf-8"))]
    assert files == ["synth.py"]

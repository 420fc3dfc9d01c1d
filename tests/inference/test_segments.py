from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from auricle.data.audio import AudioProblem, read_audio
from auricle.inference import segments
from auricle.inference.segments import MARGIN, Span, levels, read_long, runs, seconds_of, segment, silence
from tests.inference.parrot import RATE, bursts
from tests.speech import write_audio

HOP = RATE // 100
LOUDNESS = st.sampled_from([0.0, 1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0])
NOISE = np.random.default_rng(0).standard_normal(60 * RATE).astype(np.float32)


def noise(parts: list[tuple[float, float]]) -> np.ndarray:
    """(T,) noise of so many seconds at such a loudness, one part after the other."""
    gain = np.concatenate([np.zeros(0), *(np.full(round(seconds * RATE), loudness) for seconds, loudness in parts)])
    return (NOISE[: len(gain)] * gain * 0.2).astype(np.float32)


RECORDINGS = st.lists(st.tuples(st.floats(0, 6), LOUDNESS), max_size=8).map(noise)


@settings(max_examples=100, deadline=None)
@given(RECORDINGS, st.floats(0.02, 12.0))
@example(noise([(0.1, 0.1), (1.0, 0.0)]), 0.12)
def test_segments_are_ordered_disjoint_short_enough_and_hold_all_that_is_not_silent(audio, max_seconds):
    spans = segment(audio, RATE, max_seconds)
    bounds = [bound for span in spans for bound in (span.start, span.stop)]
    assert bounds == sorted(bounds)
    assert all(0 <= span.start < span.stop <= len(audio) for span in spans)
    assert all(span.stop - span.start <= max_seconds * RATE for span in spans)
    covered = np.zeros(len(audio), bool)
    for span in spans:
        covered[span.start : span.stop] = True
    level = levels(audio, HOP)
    loud = np.repeat(level >= silence(level), HOP)[: len(audio)] if len(audio) else covered
    assert not (loud & ~covered).any()
    assert all(loud[span.start : span.stop].any() for span in spans), "nothing is transcribed from silence"


BURSTS = st.lists(st.tuples(st.floats(0.05, 3.9), st.floats(0.2, 4.0), st.floats(0.1, 0.5)), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(BURSTS, st.floats(0, 3), st.sampled_from([0.0, 1e-4, 1e-3]))
@example([(3.9, 0.2, 0.3), (3.9, 0.2, 0.3), (0.1, 0.2, 0.3)], 0.1, 0.0)
def test_no_burst_between_pauses_is_ever_cut(pattern, lead, hiss):
    audio, spoken = [np.zeros(round(lead * RATE))], []
    for seconds, pause, loudness in pattern:
        first = sum(map(len, audio))
        audio += [loudness * np.sin(np.arange(round(seconds * RATE)) * 0.35), np.zeros(round(pause * RATE))]
        spoken.append((first, first + len(audio[-2])))
    audio = np.concatenate(audio).astype(np.float32)
    audio += hiss * np.resize(NOISE, len(audio))
    spans = segment(audio, RATE, max_seconds=4.0)
    for first, last in spoken:
        inside = [at for span in spans for at in (span.start, span.stop) if first + HOP < at < last - HOP]
        assert not inside, (first, last, spans)
    assert not any(span.forced for span in spans)


@pytest.mark.parametrize("audio", [np.zeros(0), np.zeros(1), np.ones(1), np.full(99 * RATE, 0.5), np.zeros(99 * RATE),
                                   1e-5 * NOISE, np.full(9 * RATE, np.nan)],
                         ids=lambda audio: f"{len(audio)} {audio[:1]}")
def test_nothing_is_left_of_what_is_silent_however_long(audio):
    assert segment(audio.astype(np.float32), RATE, max_seconds=5.0) == ()


@given(st.floats(0.01, 5.0), st.floats(0.5, 1.0))
def test_what_fits_is_one_segment_with_its_silence(tone, silent):
    audio = np.concatenate([np.zeros(RATE, np.float32), bursts((tone, silent))])
    assert segment(audio, RATE, max_seconds=len(audio) / RATE) == (Span(start=0, stop=len(audio)),)
    assert segment(audio, RATE, max_seconds=float("inf")) == (Span(start=0, stop=len(audio)),)


def test_a_cut_lies_in_the_middle_of_the_longest_pause_of_the_later_half():
    audio = bursts((1.0, 0.9), (1.5, 0.3), (0.5, 0.6), (0.5, 0.3), (2.0, 0.0))
    first, second = segment(audio, RATE, max_seconds=6.0)
    assert first.stop == second.start
    assert first.stop / RATE == pytest.approx(4.5, abs=0.05)


def test_without_a_pause_in_the_later_half_the_one_before_is_taken():
    audio = bursts((1.0, 0.4), (4.0, 0.4), (4.0, 0.0))
    assert [round(span.stop / RATE, 1) for span in segment(audio, RATE, max_seconds=5.0)] == [1.2, 5.6, 9.8]


def test_without_any_pause_the_quietest_point_is_cut_and_said_to_be_forced():
    audio = bursts((12.0, 0.0))
    audio[int(3.9 * RATE) : int(4.0 * RATE)] *= 0.3  # too short and too loud for a pause
    spans = segment(audio, RATE, max_seconds=5.0)
    assert spans[0].stop / RATE == pytest.approx(3.95, abs=0.03)
    assert [span.forced for span in spans] == [True] * (len(spans) - 1) + [False]
    assert all(one.stop == other.start for one, other in pairwise(spans))
    assert min(span.stop - span.start for span in spans) >= RATE, "no scrap is left at the end"


def test_pauses_are_found_where_the_background_is_louder_than_elsewhere():
    audio = bursts((1.0, 1.5), (3.0, 0.4), (3.0, 0.4), (3.0, 0.4), (3.0, 0.0))
    audio[int(2.5 * RATE) :] += 0.01 * np.resize(NOISE, len(audio) - int(2.5 * RATE))
    spans = segment(audio, RATE, max_seconds=5.0)
    assert not any(span.forced for span in spans)
    ends = np.array([span.stop / RATE for span in spans[1:-1]])
    assert np.abs(ends[:, None] - [5.7, 9.1, 12.5]).min(axis=1).max() < 0.2


def test_long_silence_is_left_out_but_for_a_margin():
    audio = np.concatenate([np.zeros(3 * RATE, np.float32), bursts((2.0, 9.0), (2.0, 0.5), (2.0, 7.0))])
    margin = MARGIN / 100
    wanted = [(3 - margin, 5 + margin), (14 - margin, 18.5 + margin)]
    found = [(span.start / RATE, span.stop / RATE) for span in segment(audio, RATE, max_seconds=10.0)]
    np.testing.assert_allclose(found, wanted, atol=0.011)


def test_a_segment_shorter_than_a_frame_is_refused():
    with pytest.raises(ValueError, match=r"max_seconds is 0\.001; expected at least one frame"):
        segment(bursts((1.0, 0.0)), RATE, max_seconds=0.001)


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4))
def test_runs_are_the_stretches_that_are_true(mask, at_least):
    found = runs(np.array(mask, bool), at_least)
    rebuilt = np.zeros(len(mask), bool)
    for first, last in found:
        assert last - first >= at_least
        rebuilt[first:last] = True
    assert (rebuilt <= np.array(mask, bool)).all()
    if at_least == 1:
        assert rebuilt.tolist() == mask


@pytest.fixture
def short_blocks(monkeypatch):
    monkeypatch.setattr(segments, "WHOLE_SECONDS", 1.0)
    monkeypatch.setattr(segments, "BLOCK", 5000)


@pytest.mark.parametrize(("name", "rate", "channels"), [
    ("a.wav", 44100, 2), ("a.flac", 16000, 1), ("a.ogg", 48000, 2), ("a.opus", 48000, 1), ("a.mp3", 22050, 1),
    ("short.wav", 44100, 2)])
def test_a_long_file_is_read_in_blocks_as_it_is_at_once(name, rate, channels, tmp_path, short_blocks):
    options = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
    path = write_audio(tmp_path / name, 0.9 if name == "short.wav" else 2.3, rate, channels, **options)
    np.testing.assert_array_equal(read_long(path, 16000), read_audio(path, 16000))
    assert seconds_of(path) == pytest.approx(len(read_audio(path, 16000)) / 16000, abs=0.1)


def test_only_what_the_model_hears_is_held(tmp_path, short_blocks, monkeypatch):
    path = write_audio(tmp_path / "a.wav", 2.3, 48000, 2)
    monkeypatch.setattr(segments, "read_audio", lambda *_: pytest.fail("read at once"))
    assert len(read_long(path, 16000)) == round(2.3 * 16000)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_a_long_file_that_ends_early_is_a_sentence(suffix, tmp_path, short_blocks):
    whole = write_audio(tmp_path / f"whole.{suffix}", 3.0).read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(AudioProblem, match="unreadable"):
        read_long(cut, 16000)


def test_a_file_with_fewer_samples_than_its_header_says_is_not_taken_for_whole():
    block = np.zeros((1500, 1), np.float32)
    file = SimpleNamespace(samplerate=RATE, frames=2000, blocks=lambda *_, **__: iter([block]))
    assert segments._read_blocks(file, RATE) is None


def test_what_is_no_audio_has_no_seconds_and_says_so_when_read(tmp_path):
    (tmp_path / "text.wav").write_text("this is no audio\n" * 50)
    for name in ("text.wav", "nowhere.wav"):
        assert seconds_of(tmp_path / name) == 0.0
        with pytest.raises(AudioProblem):
            read_long(tmp_path / name, 16000)


def test_offsets_do_not_hide_silence(tmp_path):
    soundfile.write(tmp_path / "offset.wav", bursts((1.0, 9.0)) + 0.2, RATE)
    spans = segment(read_long(tmp_path / "offset.wav", RATE), RATE, max_seconds=5.0)
    assert [(span.start, round(span.stop / RATE, 2)) for span in spans] == [(0, 1.25)]

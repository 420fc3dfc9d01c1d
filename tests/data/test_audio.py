import pickle
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.core.errors import DataError
from auricle.data.audio import AudioProblem, decode, read_audio, resample
from tests.paths import DATA
from tests.speech import tone, write_audio

FLAC = DATA / "speech_misc" / "jfk.flac"


def problem_with(path, **span):
    with pytest.raises(AudioProblem) as caught:
        read_audio(path, 16000, **span)
    return caught.value


def real_flac(folder):
    return FLAC if FLAC.is_file() else write_audio(folder / "long.flac", 4.0, 44100, 2)


@pytest.mark.parametrize(("suffix", "options"), [("wav", {}), ("wav", {"subtype": "FLOAT"}), ("flac", {}), ("ogg", {}),
                                                 ("opus", {"format": "OGG", "subtype": "OPUS"}), ("mp3", {})])
def test_every_format_becomes_mono_samples_of_the_wanted_rate(tmp_path, suffix, options):
    rate = 48000 if suffix == "opus" else 44100
    path = write_audio(tmp_path / f"clip.{suffix}", 1.5, rate, 2, **options)
    audio = read_audio(path, 16000)
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert audio.flags["C_CONTIGUOUS"]
    assert abs(len(audio) - 24000) <= 1
    wanted = resample(tone(1.5, rate, channels=2).mean(axis=1), rate, 16000)
    assert np.corrcoef(audio[:23900], wanted[:23900])[0, 1] > 0.99


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "two.wav", np.array([[0.5, 0.25]] * 800, np.float32), 8000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "two.wav", 8000), 0.375)


@settings(max_examples=30, deadline=None)
@given(bounds=st.tuples(st.floats(0, 4), st.floats(0, 4)).map(sorted), suffix=st.sampled_from(["wav", "flac"]))
def test_a_segment_is_that_part_of_the_whole(tmp_path_factory, bounds, suffix):
    folder = tmp_path_factory.getbasetemp()
    path = folder / f"whole.{suffix}"
    if not path.exists():
        write_audio(path, 3.0, 8000)
    whole, rate = decode(path)
    start, stop = bounds
    np.testing.assert_array_equal(decode(path, start, stop)[0], whole[round(start * rate) : round(stop * rate)])
    np.testing.assert_array_equal(decode(path, start, None)[0], whole[round(start * rate) :])
    np.testing.assert_array_equal(decode(path, None, stop)[0], whole[: round(stop * rate)])


@given(samples=st.integers(0, 3000), rates=st.tuples(*[st.sampled_from([8000, 16000, 22050, 44100, 48000])] * 2))
def test_resampling_keeps_the_duration(samples, rates):
    audio = resample(np.zeros(samples, np.float32), *rates)
    assert audio.dtype == np.float32
    assert abs(len(audio) - samples * rates[1] / rates[0]) <= 1


def test_resampling_removes_what_the_new_rate_cannot_carry():
    high = np.sin(2 * np.pi * 7000 * np.arange(16000) / 16000).astype(np.float32)
    assert np.abs(resample(high, 16000, 8000)[200:-200]).max() < 1e-3


def test_a_missing_file_is_told_from_an_unreadable_one(tmp_path):
    (tmp_path / "text.wav").write_text("this is no audio\n" * 50)
    (tmp_path / "empty.flac").write_bytes(b"")
    assert problem_with(tmp_path / "nowhere.wav").reason == "missing_file"
    assert problem_with(tmp_path / "text.wav").reason == "unreadable"
    assert problem_with(tmp_path / "empty.flac").reason == "unreadable"
    assert problem_with(tmp_path).reason == "unreadable"


@pytest.mark.parametrize("kept", [0.001, 0.01, 0.5, 0.999])
def test_a_truncated_flac_is_unreadable(tmp_path, kept):
    whole = real_flac(tmp_path).read_bytes()
    cut = tmp_path / "cut.flac"
    cut.write_bytes(whole[: int(kept * len(whole))])
    assert problem_with(cut).reason == "unreadable"


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_half_a_file_is_unreadable_and_says_that_it_was_cut(tmp_path, suffix):
    whole = write_audio(tmp_path / f"whole.{suffix}", 2.0).read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in problem_with(cut).detail


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF - 36])
def test_a_wav_that_was_written_into_a_pipe_is_whole(tmp_path, size):
    whole = write_audio(tmp_path / "whole.wav", 1.0).read_bytes()
    place = whole.index(b"data") + 4
    piped = tmp_path / "piped.wav"
    piped.write_bytes(whole[:place] + struct.pack("<I", size) + whole[place + 4 :])
    assert len(read_audio(piped, 16000)) == 16000


def test_no_samples_are_an_empty_array(tmp_path):
    path = write_audio(tmp_path / "none.wav", 0.0)
    assert read_audio(path, 8000).shape == (0,)
    assert read_audio(write_audio(tmp_path / "one.wav", 1.0), 8000, start=2.0).shape == (0,)


def test_a_problem_is_a_sentence_and_survives_the_way_between_processes(tmp_path):
    problem = pickle.loads(pickle.dumps(problem_with(tmp_path / "nowhere.wav")))
    assert isinstance(problem, DataError)
    assert (problem.reason, problem.detail) == ("missing_file", "no such file")
    assert str(problem).startswith(f"{tmp_path}/nowhere.wav: ")


def test_recordings_of_many_formats_are_read(tmp_path):
    found = [path for path in (DATA / "speech_misc").rglob("*") if path.suffix in (".wav", ".flac", ".mp3")]
    made = [write_audio(tmp_path / f"clip.{suffix}", 1.0, 22050) for suffix in ("wav", "flac", "mp3")]
    for path in found or made:
        samples, rate = decode(path)
        assert np.isfinite(samples).all()
        assert len(read_audio(path, 16000)) == pytest.approx(len(samples) * 16000 / rate, abs=1)

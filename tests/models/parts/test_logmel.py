import kaldi_native_fbank
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from auricle.models.parts.logmel import LogMel, reflect
from tests.utterances import words

RATES = (8000, 16000, 22050, 44100)


def kaldi_values(audio, rate, n_mels):
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither, options.frame_opts.samp_freq, options.frame_opts.snip_edges = 0.0, rate, True
    options.mel_opts.num_bins = n_mels
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(rate, (audio * 32768).tolist())
    fbank.input_finished()
    return np.array([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.5, 1.0])
def test_whisper_style_equals_the_features_of_whisper(n_mels, seconds):
    audio = words(1)[0].audio[:int(seconds * 16000)]
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    expected = extractor(audio, sampling_rate=16000, padding="do_not_pad", return_tensors="np")["input_features"][0].T
    features = LogMel(n_mels=n_mels)(audio)
    assert features.shape == expected.shape
    assert np.abs(features.numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("rate", [8000, 16000, 22050])
@pytest.mark.parametrize("n_mels", [40, 80])
def test_kaldi_style_equals_kaldi_native_fbank(rate, n_mels):
    audio = words(1)[0].audio[:rate]
    expected = kaldi_values(audio, rate, n_mels)
    features = LogMel(rate, n_mels, "kaldi")(audio)
    assert features.shape == expected.shape
    assert np.abs(features.numpy() - expected).max() < 2e-3  # theirs is float32 throughout
    assert np.abs(features.numpy() - expected).mean() < 2e-5


def test_silence_is_finite_and_lies_on_the_floor():
    for style in ("whisper", "kaldi"):
        features = LogMel(style=style)(np.zeros(1600, np.float32))
        assert features.isfinite().all()
        assert features.min() == features.max()


@settings(deadline=None, max_examples=60)
@example(samples=220, rate=22_050, style="whisper")
@given(samples=st.integers(0, 2500), rate=st.sampled_from(RATES), style=st.sampled_from(["whisper", "kaldi"]))
def test_lengths_are_the_real_ones_for_every_length_from_nothing_up(samples, rate, style):
    frontend = LogMel(rate, 20, style)
    audio = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    features = frontend(audio)
    assert features.shape == (frontend.lengths(samples), 20)
    assert frontend.lengths(torch.tensor([samples])).tolist() == [len(features)]
    assert features.dtype == torch.float32
    assert features.isfinite().all()


@settings(deadline=None, max_examples=60)
@given(samples=st.integers(1, 60), margin=st.integers(1, 200))
def test_reflection_is_numpy_s_even_for_clips_shorter_than_the_margin(samples, margin):
    audio = np.arange(samples, dtype=np.float32)
    assert reflect(torch.from_numpy(audio), margin).tolist() == np.pad(audio, margin, mode="reflect").tolist()


def test_normalization_is_over_the_utterance_and_survives_a_constant_bin():
    audio = words(1)[0].audio
    plain = LogMel()(audio)
    centred, scaled = LogMel(normalize="mean")(audio), LogMel(normalize="mean_variance")(audio)
    torch.testing.assert_close(centred, plain - plain.mean(0))
    spread = plain.std(0, correction=0) > 0
    assert spread.sum() > 60
    torch.testing.assert_close(scaled.std(0, correction=0), spread.float(), atol=1e-4, rtol=0)
    assert LogMel(normalize="mean_variance")(audio[:160]).tolist() == [[0.0] * 80]
    assert LogMel(normalize="mean_variance")(audio[:0]).shape == (0, 80)


def test_read_only_and_strided_arrays_and_tensors_are_taken_as_they_come():
    audio = words(1)[0].audio
    frozen = audio.copy()
    frozen.flags.writeable = False
    for same in (frozen, np.repeat(audio, 2)[::2], audio.astype(np.float64), torch.from_numpy(audio)):
        assert torch.equal(LogMel()(same), LogMel()(audio))


def test_the_front_end_stays_on_the_cpu_and_has_no_state():
    frontend = LogMel()
    assert not frontend.state_dict()
    assert not list(frontend.buffers())
    assert frontend.to("meta")(np.zeros(400, np.float32)).device.type == "cpu"
    assert frontend.hop_seconds == 0.01

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from auricle.core.errors import ConfigError
from auricle.models.parts.encoders.parts.build import build
from auricle.models.parts.encoders.parts.config import EncoderConfig
from auricle.models.parts.encoders.whisper import PaddedLogMel
from tests.models.parts.encoders.small import WHISPER, batch, built, lively, saved, theirs

SECOND = {**WHISPER, "max_source_positions": 50}
"""A window of one second, which WhisperFeatureExtractor can be told."""
EXTRACTOR = WhisperFeatureExtractor(feature_size=80, chunk_length=1)
DECODER = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "vocab_size": 9, "pad_token_id": 0,
           "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def noise(samples, scale=0.1):
    return (scale * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def pair(window, folder):
    """transformers' encoder, and ours with its weights."""
    expected = theirs("whisper", SECOND)
    return expected, build(EncoderConfig(kind="whisper", pretrained=saved(expected, folder), window=window))


def features_of(audio):
    return EXTRACTOR(audio, sampling_rate=16_000, return_tensors="pt")["input_features"]


def encode(encoder, audio):
    with torch.no_grad():
        encoded, (length,) = encoder(*batch(encoder, [audio]))
    return encoded[0, :length]


QUIET = 1e-6
"""So quiet that the floor is not set by the highest value."""


@pytest.mark.parametrize(("scale", "lengths"), [
    (0.1, (160, 479, 480, 8001, 15_521, 15_679, 15_680, 15_839, 15_840, 15_999, 16_000, 16_100)),
    (QUIET, (8001, 15_999)), (0.0, (8001,))])
def test_the_full_window_gives_what_transformers_gives_for_every_length(tmp_path, scale, lengths):
    expected, encoder = pair("full", tmp_path)
    for samples in lengths:
        audio = noise(samples, scale)
        ours = encode(encoder, audio)
        with torch.no_grad():
            whole = expected(features_of(audio)).last_hidden_state[0]
        assert len(ours) == encoder.lengths(samples) == -(-(samples // 160) // 2)
        torch.testing.assert_close(ours, whole[:len(ours)], atol=1e-5, rtol=0)


@pytest.mark.parametrize("samples", [16_160, 40_000, 47_900])
def test_a_clip_longer_than_the_window_is_cut_into_windows_that_follow_each_other(tmp_path, samples):
    expected, encoder = pair("full", tmp_path)
    audio = noise(samples)
    windows = WhisperFeatureExtractor(feature_size=80, chunk_length=3)(audio, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        whole = torch.cat([expected(window).last_hidden_state[0]
                           for window in windows["input_features"].split(100, -1)])
    ours = encode(encoder, audio)
    assert len(ours) == -(-(samples // 160) // 2)
    torch.testing.assert_close(ours, whole[:len(ours)], atol=1e-5, rtol=0)


@pytest.mark.parametrize("samples", [2240, 8000, 15_199])
def test_trimmed_is_a_whisper_whose_window_is_the_utterance(tmp_path, samples):
    expected, encoder = pair("trimmed", tmp_path)
    positions = samples // 320
    shorter = WhisperEncoder(WhisperConfig(**{**SECOND, "max_source_positions": positions})).eval()
    weights = expected.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][:positions]
    shorter.load_state_dict(weights)
    features = encoder.frontend(noise(samples))
    with torch.no_grad():
        whole = shorter(features.T.unsqueeze(0)).last_hidden_state[0]
    torch.testing.assert_close(encode(encoder, noise(samples)), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [41, 44, 45, 79, 80, 81])
def test_a_window_of_a_trimmed_clip_is_encoded_as_a_clip_of_its_own(frames):
    encoder, features = built("whisper-trimmed"), torch.randn(1, frames, 80)
    with torch.no_grad():
        whole, _ = encoder(features, torch.tensor([frames]))
        apart = [encoder(window, torch.tensor([window.shape[1]]))[0] for window in features.split(40, 1)]
    torch.testing.assert_close(whole, torch.cat(apart, 1), atol=1e-5, rtol=0)


def test_both_windows_agree_on_a_clip_that_fills_them(tmp_path):
    for samples in (16_000, 32_000):
        full, trimmed = (encode(pair(window, tmp_path)[1], noise(samples)) for window in ("full", "trimmed"))
        assert len(full) == samples // 320
        torch.testing.assert_close(trimmed, full, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=40)
@given(samples=st.integers(0, 17_000))
def test_workers_ship_the_clip_and_a_tail_and_not_the_window(samples):
    frontend = PaddedLogMel(80, 100)
    features, frames = frontend(noise(samples)), frontend.lengths(samples)
    assert frames == samples // 160
    assert len(features) == frames + frontend.tail(frames)
    assert frontend.tail(frames) == min(3, -frames % 100)
    assert frontend.tail(torch.tensor([frames])).tolist() == [frontend.tail(frames)]


def test_windows_without_audio_are_not_computed():
    seen = []
    for case in ("whisper-full", "whisper-trimmed"):
        encoder = built(case)
        encoder.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        encoder(*batch(encoder, [noise(20_000), noise(500), noise(0), noise(6600)], extra=200))
    assert seen == [4 + 1 + 1 + 2] * 2


@pytest.mark.parametrize("model_class", [WhisperModel, WhisperForConditionalGeneration])
def test_the_encoder_half_of_a_whole_checkpoint_is_loaded(tmp_path, model_class, caplog):
    whole = lively(model_class(WhisperConfig(**SECOND, **DECODER))).eval()
    encoder = build(EncoderConfig(kind="whisper", pretrained=saved(whole.half(), tmp_path), window="full"))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    half = whole.float().get_encoder()
    with torch.no_grad():
        expected = half(features_of(noise(9000))).last_hidden_state[0]
    ours = encode(encoder, noise(9000))
    torch.testing.assert_close(ours, expected[:len(ours)], atol=1e-5, rtol=0)
    assert encoder.configuration["d_model"] == 16
    assert "UNEXPECTED" not in caplog.text


def test_positions_are_no_parameters():
    encoder = built("whisper-full")
    assert "positions" in dict(encoder.named_buffers())
    assert sum(p.numel() for p in encoder.parameters()) == sum(
        p.numel() for name, p in theirs("whisper", WHISPER).named_parameters() if "positions" not in name)


def test_normalisation_of_a_waveform_is_refused():
    with pytest.raises(ConfigError, match=r"encoder\.normalize is true, and Whisper takes log-mel features; remove it"):
        build(EncoderConfig(kind="whisper", config=WHISPER, normalize=True))

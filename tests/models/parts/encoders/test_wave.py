"""HuBERT, WavLM and wav2vec 2.0."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    HubertConfig,
    HubertForCTC,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WavLMConfig,
    WavLMForCTC,
)

from auricle.core.errors import ModelError
from auricle.models.parts.encoders.parts.build import build
from auricle.models.parts.encoders.parts.config import EncoderConfig
from auricle.models.parts.encoders.parts.wave import normalized_over_time
from auricle.models.parts.encoders.parts.waveform import Waveform
from tests.models.parts.encoders.small import GROUP, STABLE, WAVE, batch, built, lively, saved, theirs

CTC = {"hubert": (HubertConfig, HubertForCTC), "wav2vec2": (Wav2Vec2Config, Wav2Vec2ForCTC),
       "wavlm": (WavLMConfig, WavLMForCTC)}


def noise(samples):
    return np.random.default_rng(samples).standard_normal(samples).astype(np.float32)


def both(model, encoder, audio):
    with torch.no_grad():
        expected = model(torch.from_numpy(audio).unsqueeze(0)).last_hidden_state[0]
        encoded, (length,) = encoder(*batch(encoder, [audio]))
    return encoded[0, :length], expected


@pytest.mark.parametrize("keys", [GROUP, STABLE], ids=["group", "stable"])
@pytest.mark.parametrize("kind", WAVE)
def test_a_clip_alone_gives_what_transformers_gives(kind, keys, tmp_path):
    model = theirs(kind, keys)
    encoder = build(EncoderConfig(kind=kind, pretrained=saved(model, tmp_path)))
    for samples in (400, 719, 720, 3999, 20_000):
        ours, expected = both(model, encoder, noise(samples))
        assert ours.shape == expected.shape == ((samples - 400) // 320 + 1, 16)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("keys", [GROUP, STABLE], ids=["group", "stable"])
@pytest.mark.parametrize("kind", WAVE)
def test_all_layers_of_a_clip_are_the_hidden_states_of_transformers_and_the_last_is_its_output(kind, keys, tmp_path):
    model = theirs(kind, keys)
    encoder = build(EncoderConfig(kind=kind, pretrained=saved(model, tmp_path)))
    for samples in (400, 719, 5000):
        audio = noise(samples)
        with torch.no_grad():
            said = model(torch.from_numpy(audio).unsqueeze(0), output_hidden_states=True)
            expected = [*said.hidden_states[1:-1], said.last_hidden_state]
            layers, (length,) = encoder.all_layers(*batch(encoder, [audio]))
        assert len(layers) == len(expected) == len(encoder.layers)
        for ours, one in zip(layers, expected, strict=True):
            torch.testing.assert_close(ours[0, :length], one[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["wavlm-group", "hubert-group", "wav2vec2-stable"])
def test_padding_changes_no_layer(case):
    encoder = built(case, torch.float64)
    clips = [noise(4000), noise(700), noise(10)]
    together, lengths = encoder.all_layers(*batch(encoder, clips, torch.float64, filler=float("nan"), extra=7))
    assert torch.equal(together[-1], encoder(*batch(encoder, clips, torch.float64, extra=7))[0])
    assert lengths.tolist() == [12, 1, 0]
    for row, (clip, length) in enumerate(zip(clips, lengths, strict=True)):
        alone, _ = encoder.all_layers(*batch(encoder, [clip], torch.float64))
        for ours, one in zip(together, alone, strict=True):
            torch.testing.assert_close(ours[row, :length], one[0, :length], atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", WAVE)
def test_gradients_are_those_of_transformers(kind, tmp_path):
    model = theirs(kind, STABLE).train()
    encoder = build(EncoderConfig(kind=kind, pretrained=saved(model, tmp_path)))
    audio = torch.from_numpy(noise(4000))
    model.config.layerdrop = model.config.mask_time_prob = 0.0
    model(audio.unsqueeze(0)).last_hidden_state.square().sum().backward()
    encoder(audio[None, :, None], torch.tensor([4000]))[0].square().sum().backward()
    ours, expected = (dict(module.layers.named_parameters()) for module in (encoder, model.encoder))
    assert list(ours) == list(expected)
    for name, parameter in expected.items():
        torch.testing.assert_close(ours[name].grad, parameter.grad, atol=1e-3, rtol=1e-4)


def test_lengths_are_the_frames_of_400_samples_every_320():
    encoder, samples = built("hubert-group"), torch.arange(20_000).view(2, -1)
    expected = ((samples - 400) / 320).floor().add(1).clamp(min=0).long()
    assert encoder.receptive_field == 400
    assert torch.equal(encoder.lengths(samples), expected)
    assert [encoder.lengths(length) for length in range(2000)] == expected[0, :2000].tolist()


@settings(deadline=None, max_examples=25)
@given(kernels=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=3),
       samples=st.integers(0, 60))
def test_lengths_hold_for_other_kernels_and_strides(kernels, samples):
    keys = {**GROUP, "conv_dim": [4] * len(kernels), "conv_kernel": [kernel for kernel, _ in kernels],
            "conv_stride": [stride for _, stride in kernels]}
    encoder, x = build(EncoderConfig(kind="hubert", config=keys)), torch.zeros(1, 1, samples)
    for layer in encoder.convolutions:
        kernel, = layer.conv.kernel_size
        x = layer.conv(x) if x.shape[-1] >= kernel else torch.zeros(1, 4, 0)
    assert encoder.lengths(samples) == x.shape[-1]
    assert (encoder.lengths(encoder.receptive_field), encoder.lengths(encoder.receptive_field - 1)) == (1, 0)


def test_the_masked_normalisation_is_a_group_norm_over_the_clip_s_own_frames():
    torch.manual_seed(0)
    norm, x = lively(nn.GroupNorm(6, 6)), 3 + torch.randn(3, 6, 50)
    lengths = torch.tensor([50, 7, 0])
    normalized = normalized_over_time(x, lengths, norm)
    for row, length in enumerate([50, 7]):
        torch.testing.assert_close(normalized[row, :, :length], norm(x[row:row + 1, :, :length])[0])
    assert normalized.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(normalized_over_time(x, lengths, norm), normalized)


@pytest.mark.parametrize("kind", CTC)
def test_a_checkpoint_that_was_fine_tuned_with_ctc_gives_its_encoder(kind, tmp_path):
    config_class, model_class = CTC[kind]
    model = lively(model_class(config_class(**STABLE))).eval()
    encoder = build(EncoderConfig(kind=kind, pretrained=saved(model, tmp_path)))
    ours, expected = both(model.base_model, encoder, noise(3000))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_a_checkpoint_from_before_parametrizations_is_read(tmp_path):
    model = theirs("hubert", GROUP)
    name, path = saved(model, tmp_path), tmp_path / "model.safetensors"
    old = {"original0": "weight_g", "original1": "weight_v"}
    tensors = {key.replace(f"parametrizations.weight.{part}", was): tensor for key, tensor in load_file(path).items()
               for part, was in [next(((p, w) for p, w in old.items() if key.endswith(p)), ("-", "-"))]}
    assert sum(key.endswith(("weight_g", "weight_v")) for key in tensors) == 2
    save_file(tensors, path, metadata={"format": "pt"})
    ours, expected = both(model, build(EncoderConfig(kind="hubert", pretrained=name)), noise(3000))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_the_normalised_waveform_is_that_of_the_feature_extractor():
    for audio in (3 + 5 * noise(1000), np.zeros(500, np.float32), noise(1)):
        expected = Wav2Vec2FeatureExtractor(do_normalize=True)(audio, sampling_rate=16_000)["input_values"][0]
        torch.testing.assert_close(Waveform(True)(audio)[:, 0], torch.from_numpy(expected), atol=1e-5, rtol=0)
        assert torch.equal(Waveform(False)(audio)[:, 0], torch.from_numpy(audio))
    assert Waveform(True)(noise(0)).shape == (0, 1)


@pytest.mark.parametrize(("says", "asked", "expected"), [
    ({"do_normalize": True}, None, True), ({"do_normalize": False}, None, False), ({"feature_size": 1}, None, True),
    ({}, None, False), ({"do_normalize": True}, False, False), ({}, True, True)])
def test_the_checkpoint_says_whether_the_waveform_is_normalised_unless_the_config_does(tmp_path, says, asked, expected):
    name = saved(theirs("hubert", GROUP), tmp_path, **says)
    assert build(EncoderConfig(kind="hubert", pretrained=name, normalize=asked)).frontend.normalize is expected


def test_fresh_weights_take_the_waveform_as_it_is_unless_told_otherwise():
    assert build(EncoderConfig(kind="wavlm", config=GROUP)).frontend.normalize is False
    assert build(EncoderConfig(kind="wavlm", config=GROUP, normalize=True)).frontend.normalize is True


def test_another_sampling_rate_is_refused(tmp_path):
    name = saved(theirs("hubert", GROUP), tmp_path, sampling_rate=8000)
    with pytest.raises(ModelError, match="takes audio of 8000 Hz; expected 16000"):
        build(EncoderConfig(kind="hubert", pretrained=name))


@pytest.mark.parametrize(("kind", "key"), [("hubert", "conv_pos_batch_norm"), ("wav2vec2", "add_adapter")])
def test_parts_that_would_break_the_contract_are_refused(kind, key, tmp_path):
    for config in (EncoderConfig(kind=kind, config={**GROUP, key: True}),
                   EncoderConfig(kind=kind, pretrained=saved(theirs(kind, {**GROUP, key: True}), tmp_path))):
        with pytest.raises(ModelError, match=f"{key} is true, which is not supported"):
            build(config)


def test_adapters_of_a_language_stay_in_the_blocks(tmp_path):
    model = theirs("wav2vec2", {**STABLE, "adapter_attn_dim": 4})
    ours, expected = both(model, build(EncoderConfig(kind="wav2vec2", pretrained=saved(model, tmp_path))), noise(3000))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_the_parameters_are_those_of_the_original_without_the_embedding_of_its_mask():
    encoder, model = built("hubert-stable"), HubertModel(HubertConfig(**STABLE))
    ours, original = (sum(p.numel() for p in module.parameters()) for module in (encoder, model))
    assert ours == original - model.masked_spec_embed.numel()

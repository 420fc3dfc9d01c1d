"""Encoders of a few thousand weights, of the classes and by the code of the large ones."""

import json

import torch
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from auricle.models.parts.encoders.parts.build import build
from auricle.models.parts.encoders.parts.config import EncoderConfig

WINDOW_SECONDS = 0.4
NO_DROPOUT = dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout"), 0.0)
GROUP = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24,
         "conv_dim": [12] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4, **NO_DROPOUT}
STABLE = {**GROUP, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
WHISPER = {"d_model": 16, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 80,
           "max_source_positions": int(WINDOW_SECONDS * 50)}
CONFORMER = {"width": 16, "layers": 3, "heads": 2, "feedforward_factor": 2, "convolution_kernel": 5,
             "subsampling_channels": 4, "dropout": 0.0}

WAVE = {"hubert": (HubertConfig, HubertModel), "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
        "wavlm": (WavLMConfig, WavLMModel)}
THEIRS = {**WAVE, "whisper": (WhisperConfig, WhisperEncoder)}

CASES = {
    "conformer": EncoderConfig(kind="conformer", config=CONFORMER),
    **{f"{kind}-group": EncoderConfig(kind=kind, config=GROUP) for kind in WAVE},
    **{f"{kind}-stable": EncoderConfig(kind=kind, config=STABLE, normalize=True) for kind in WAVE},
    "whisper-full": EncoderConfig(kind="whisper", config=WHISPER, window="full"),
    "whisper-trimmed": EncoderConfig(kind="whisper", config=WHISPER),
}


def lively(model):
    """With every weight away from the values at which it does nothing: norms, biases, the tables of WavLM."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def built(case, dtype=torch.float32, **changes):
    """With the same fresh weights whenever it is called."""
    torch.manual_seed(0)
    return lively(build(CASES[case].model_copy(update=changes))).to(dtype)


def theirs(kind, keys):
    """transformers' model of that architecture."""
    torch.manual_seed(0)
    config_class, model_class = THEIRS[kind]
    return lively(model_class(config_class(**keys))).eval()


def saved(model, folder, **preprocessor):
    """The folder as a name for `pretrained`, with a preprocessor_config.json that says so much."""
    model.save_pretrained(folder)
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    return str(folder)


def batch(encoder, clips, dtype=torch.float32, filler=7.0, extra=0):
    """As a task collates: (B, F, M) with rubbish in the padding, (B,) lengths that the front end counts."""
    features = [encoder.frontend(clip).to(dtype) for clip in clips]
    longest = max(map(len, features), default=0) + extra
    padded = torch.full((len(clips), longest, encoder.frontend.n_mels), filler, dtype=dtype)
    for row, one in enumerate(features):
        padded[row, :len(one)] = one
    return padded, torch.tensor([encoder.frontend.lengths(len(clip)) for clip in clips], dtype=torch.long)

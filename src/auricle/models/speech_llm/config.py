"""What a speech language model is built from."""

from typing import Any, Literal, Self

from pydantic import model_validator

from auricle.core.config import Fraction, Positive
from auricle.core.frame import Block, Frame
from auricle.models.parts.encoders.parts.config import EncoderConfig
from auricle.models.speech_llm.projector_configs import ProjectorConfig, SwigluConfig


class DecoderConfig(Frame):
    """A causal language model of transformers."""

    pretrained: str | None = None
    """A model of the hub (owner/name) or a folder that transformers saved: configuration, weights and tokenizer."""
    revision: str | None = None
    """Of the hub's model; None is its newest, which is written down in what training saves."""
    config: dict[str, Any] = {}
    """transformers' configuration, `model_type` first (smollm3, qwen3, llama …), of a model with fresh weights."""
    tokenizer_size: Positive = 300
    """Entries of the tokenizer that is trained on the transcripts where no pretrained model brings one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of its weights. Half precision halves the memory of a frozen part; a part that trains needs float32."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.pretrained is None and "model_type" not in self.config:
            raise ValueError("give 'pretrained' (a model of the hub or a folder), or 'config' with a 'model_type'")
        return self


class LoraConfig(Frame):
    """Low-rank updates of the decoder's linear layers (Hu et al. 2021). They are built with the model, and frozen until
    a stage names the component `lora`. The defaults are SALMONN's (Tang et al. 2024)."""

    rank: Positive = 8
    alpha: Positive = 32
    """The update is scaled by alpha / rank."""
    dropout: Fraction = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the layers, as q_proj and v_proj."""


class Config(Block):
    """An audio encoder, a projector, and a language model that reads what it hears among its words."""

    kind: Literal["speech_llm"] = "speech_llm"
    encoder: EncoderConfig
    encoder_window: Literal["full", "trimmed"] = "full"
    """Whisper: the whole window of 30 seconds, as it was trained, or the utterance alone."""
    projector: ProjectorConfig = SwigluConfig()
    decoder: DecoderConfig
    lora: LoraConfig | None = None
    system_prompt: str = ""
    """The first message of every conversation; empty is none."""
    ctc_alphabet: str | None = None
    """Characters of a CTC head on the encoder, for a stage that trains the encoder by the task `ctc`."""

    @model_validator(mode="after")
    def _one_window(self) -> Self:
        if self.encoder.window != EncoderConfig.model_fields["window"].default:
            raise ValueError(f"encoder.window is {self.encoder.window}; say it once, in encoder_window")
        return self

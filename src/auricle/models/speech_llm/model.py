"""A speech language model: what an encoder hears is put among a language model's words.

    samples ─frontend─► features ─encoder─► frames ─projector─► tokens ─┐
    conversation: ids, with as many placeholders as there are tokens ───┴► embeddings ─decoder─► answer
                                     frames ─ctc_head─► labels (where there is an alphabet)

# B utterances · F feature frames · M mel bins · E encoder frames · P audio tokens · S positions of a conversation
# D width of the language model · N labelled positions · V labels of the CTC head
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from auricle.core.errors import ModelError
from auricle.models.parts.encoders import Encoder
from auricle.models.parts.encoders.parts.build import build as build_encoder
from auricle.models.parts.encoders.parts.build import standalone
from auricle.models.parts.folder import HubPart
from auricle.models.parts.weights import component_tensors, weights_hash
from auricle.models.speech_llm.config import Config
from auricle.models.speech_llm.language_model import (
    Adapters,
    build_language_model,
    cross_entropy,
    plain_config,
    put_adapters,
)
from auricle.models.speech_llm.projectors import Auxiliary, Projector
from auricle.models.speech_llm.projectors.parts.build import build as build_projector

IGNORED = -100
"""Label of a position that no loss looks at."""


class Conversation(NamedTuple):
    """What a language model reads, in ids. A row may be padded on either side."""

    ids: Tensor
    """(B, S) long; what stands at an audio position or in padding is not read"""
    valid: Tensor
    """(B, S) bool, true where a position belongs to its conversation"""
    is_audio: Tensor
    """(B, S) bool, true where an audio token goes: in each row as many as the projector yields for its utterance"""
    labels: Tensor
    """(B, S) long: the id itself where it belongs to the answer, else IGNORED"""


@dataclass(frozen=True)
class Answered:
    """Sums over the labelled positions of a batch, and what the projector has to say."""

    cross_entropy: Tensor
    """() Σ -log p(label)"""
    smoothing: Tensor
    """() Σ over positions of the mean of -log p over the vocabulary"""
    auxiliary: Mapping[str, Auxiliary] = field(default_factory=dict)
    health: Mapping[str, Tensor] = field(default_factory=dict)


class SpeechLlm(nn.Module):
    """Without a conversation it is its encoder with the CTC head: (B, F, M), (B,) → (B, E, V+1) logits, (B,)."""

    def __init__(self, config: Config, encoder: Encoder, projector: Projector, language_model: PreTrainedModel,
                 adapters: Adapters | None, ctc_head: nn.Linear | None) -> None:
        super().__init__()
        self.config, self.encoder, self.projector, self.language_model = config, encoder, projector, language_model
        self.decoder_configuration = plain_config(language_model)
        self._adapters, self.ctc_head = [adapters] if adapters else [], ctc_head
        self.frontend = encoder.frontend
        self.hub_parts: dict[str, HubPart] = {}
        """Components as the hub has them."""

    def components(self) -> Mapping[str, nn.Module]:
        named = {"lora": self._adapters[0] if self._adapters else None, "encoder": self.encoder,
                 "projector": self.projector, "decoder": self.language_model.base_model,
                 "lm_head": self.language_model.get_output_embeddings(), "ctc_head": self.ctc_head}
        return {name: module for name, module in named.items() if module is not None}

    def saved_config(self, hub: set[str]) -> Config:
        """What builds this model again where only the components in `hub` can be fetched and the rest is stored."""
        encoder, decoder = self.config.encoder, self.config.decoder
        if "encoder" in hub:
            encoder = encoder.model_copy(update={"revision": self.hub_parts["encoder"].revision})
        else:
            encoder = standalone(encoder, self.encoder)
        if "decoder" in hub:
            decoder = decoder.model_copy(update={"revision": self.hub_parts["decoder"].revision})
        else:
            own = {"pretrained": None, "revision": None, "config": self.decoder_configuration}
            decoder = decoder.model_copy(update=own)
        return self.config.model_copy(update={"encoder": encoder, "decoder": decoder})

    def output_lengths(self, samples: Tensor) -> Tensor:
        """Encoder frames, which the CTC head labels."""
        return self.encoder.lengths(samples)

    def audio_tokens(self, samples: int | Tensor) -> int | Tensor:
        """(…) audio samples → (…) tokens that the language model reads for them."""
        return self.projector.lengths(self.encoder.lengths(samples))

    def forward(self, features: Tensor, lengths: Tensor, conversation: Conversation | None = None,
                encoded: bool = False) -> tuple[Tensor, Tensor] | Answered:
        """`encoded` says that `features` already are what the encoder makes of them, (B, E, ·)."""
        if conversation is None:
            return self._labelled(features, lengths)
        conversation = conversation if conversation.ids.numel() else silence(conversation)
        embedded, auxiliary, health = self._embedded(features, lengths, conversation, encoded)
        hidden = self.language_model.base_model(
            inputs_embeds=embedded, use_cache=False, **attention(conversation.valid)).last_hidden_state  # (B, S, D)
        labels = conversation.labels[:, 1:]
        chosen = labels != IGNORED  # (B, S-1): a position predicts the next one
        head = self.language_model.get_output_embeddings()
        sums = cross_entropy(hidden[:, :-1][chosen], labels[chosen], head)
        return Answered(*sums, auxiliary, health)

    def _labelled(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.ctc_head is None:
            raise ModelError("model: it has no CTC head; give model.ctc_alphabet the characters that it shall spell")
        encoded, lengths = self.encode(features, lengths)  # (B, E, ·)
        return self.ctc_head(encoded.to(self.ctc_head.weight.dtype)), lengths  # (B, E, V+1)

    def encode(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, M), (B,) → (B, E, ·) frames, (B,). A frozen encoder leaves no graph behind."""
        with torch.set_grad_enabled(_learns(self.encoder) and torch.is_grad_enabled()):
            return self.encoder(features, lengths)

    @property
    def _hearing_learns(self) -> bool:
        return self.training and (_learns(self.encoder) or _learns(self.projector))

    def _embedded(self, features: Tensor, lengths: Tensor, conversation: Conversation,
                  encoded: bool = False) -> tuple[Tensor, Mapping, Mapping]:
        """(B, S, D) embeddings with audio tokens at their places."""
        ids = conversation.ids.masked_fill(conversation.is_audio | ~conversation.valid, 0)
        embedded = self.language_model.get_input_embeddings()(ids)  # (B, S, D)
        if features.shape[1] == 0 and not self._hearing_learns:
            return embedded, {}, {}
        frames, lengths = (features, lengths) if encoded else self.encode(features, lengths)
        projected = self.projector(frames.to(self._projector_dtype), lengths)
        heard = torch.arange(projected.tokens.shape[1], device=ids.device) < projected.lengths.unsqueeze(1)  # (B, P)
        tokens = projected.tokens.to(embedded.dtype)
        embedded = embedded.masked_scatter(conversation.is_audio.unsqueeze(-1), tokens[heard])
        if torch.is_grad_enabled() and tokens.requires_grad:
            embedded = embedded + 0 * tokens.sum()  # without audio the graph still reaches the projector
        return embedded, projected.auxiliary, projected.health

    @property
    def _projector_dtype(self) -> torch.dtype:
        return next(self.projector.parameters()).dtype

    @torch.no_grad()
    def generate(self, features: Tensor, lengths: Tensor, conversation: Conversation, **options: object) -> Tensor:
        """(B, ·) ids of the answers, by transformers' `generate`, whose options they are. Rows are padded on the left.
        """
        embedded, *_ = self._embedded(features, lengths, conversation)
        return self.language_model.generate(
            inputs_embeds=embedded, attention_mask=conversation.valid.long(), **options)


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def silence(conversation: Conversation) -> Conversation:
    """One row of two positions without a label, for a batch without any: the graph still reaches every parameter."""
    ids = conversation.ids.new_zeros(1, 2)
    yes = torch.ones_like(ids, dtype=torch.bool)
    return Conversation(ids, yes, ~yes, torch.full_like(ids, IGNORED))


def attention(valid: Tensor) -> dict[str, Tensor]:
    """(B, S) bool → mask and positions, as `generate` makes them of the same mask: padding takes no position."""
    mask = valid.long()
    return {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def build(config: Config, vocabulary: int) -> SpeechLlm:
    """Pretrained parts are fetched, others have fresh weights; `vocabulary` is the tokenizer's size.

    Raises ConfigError and ModelError.
    """
    encoder = build_encoder(config.encoder.model_copy(update={"window": config.encoder_window}))
    language_model, commit = build_language_model(config.decoder, vocabulary)
    adapters = put_adapters(language_model, config.lora) if config.lora else None
    width = language_model.get_input_embeddings().embedding_dim
    projector = build_projector(config.projector, encoder.width, width)
    ctc_head = nn.Linear(encoder.width, len(set(config.ctc_alphabet)) + 1) if config.ctc_alphabet else None
    model = SpeechLlm(config, encoder, projector, language_model, adapters, ctc_head)
    model.hub_parts = _hub_parts(model, commit)
    return model


def _hub_parts(model: SpeechLlm, commit: str | None) -> dict[str, HubPart]:
    sources = {"encoder": (model.config.encoder, model.encoder.commit), "decoder": (model.config.decoder, commit)}
    sources["lm_head"] = sources["decoder"]
    return {component: HubPart(hub=config.pretrained, revision=revision, hash=weights_hash(tensors))
            for component, tensors in component_tensors(model).items()
            if component in sources
            for config, revision in [sources[component]]
            if config.pretrained and revision and not Path(config.pretrained).is_dir()}



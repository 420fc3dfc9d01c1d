"""VoxFormer: a front end, an encoder over three rates, a CTC head and an attention decoder (Watanabe et al. 2017).

    samples ─frontend─► features ─front end─► frames ─encoder─► encoded ─┬─ctc_head─► labels and blanks of each frame
                                                             tokens ─────┴─decoder──► what follows each token

A front end (frontends/KIND.py) has its part for loader workers as `frontend`, `components()` as a model has them,
`lengths(samples)`, and forward(features, lengths, chunks) → (B, E, D), (B,) at 50 Hz. An encoder (encoders/KIND.py)
takes these frames, lengths and chunks, and gives as many.

# B batch · F feature frames · M features of each · E encoder frames · D width · U tokens · V labels
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from auricle.core.errors import ModelError
from auricle.core.folder import find
from auricle.models.parts.encoders.parts.build import standalone
from auricle.models.parts.encoders.parts.stand_in import with_stand_in
from auricle.models.parts.folder import HubPart
from auricle.models.parts.weights import component_tensors, weights_hash
from auricle.models.voxformer.chunks import Chunks, Memory
from auricle.models.voxformer.config import COARSEST, Config, WaveConfig, chunk_frames
from auricle.models.voxformer.decoder import AttentionDecoder
from auricle.models.voxformer.summary import summary

ROOM = "models.voxformer"


class Recognised(NamedTuple):
    """What training looks at."""

    ctc_logits: Tensor
    """(B, E, V+1), class V is the blank"""
    lengths: Tensor
    """(B,) encoder frames"""
    decoder_logits: Tensor
    """(B, U, V+1), class V is the end"""


class VoxFormer(nn.Module):
    """Without tokens it is its encoder with the CTC head: (B, F, M), (B,) → (B, E, V+1), (B,).

    B and F may be 0. Without utterances the result is empty, but its graph still reaches every parameter; without
    frames it is one frame long, and the lengths say that the frame does not count.
    """

    def __init__(self, config: Config, front_end: nn.Module, encoder: nn.Module, decoder: AttentionDecoder,
                 ctc_head: nn.Linear) -> None:
        super().__init__()
        self.config, self.frontend = config, front_end.frontend
        self.front_end, self.encoder, self.decoder, self.ctc_head = front_end, encoder, decoder, ctc_head
        self.hub_parts: dict[str, HubPart] = {}
        """Components as the hub has them."""

    def components(self) -> Mapping[str, nn.Module]:
        """`frontend` (a pretrained encoder, if there is one), `adapter`, encoder, decoder, ctc_head."""
        return {**self.front_end.components(), "encoder": self.encoder, "decoder": self.decoder,
                "ctc_head": self.ctc_head}

    def output_lengths(self, samples: Tensor) -> Tensor:
        return self.front_end.lengths(samples)

    def forward(self, features: Tensor, lengths: Tensor,
                tokens: Tensor | None = None) -> tuple[Tensor, Tensor] | Recognised:
        """With tokens (B, U), the end symbol V and then labels, padded with anything, also what follows each of them.

        In training, where the config asks for streaming, chunks of a length that is drawn.
        """
        batch = len(features)
        features, lengths = with_stand_in(features, lengths)
        encoded, lengths = self.encode(features, lengths, self._drawn_chunk())  # (B, E, D)
        logits = self.ctc_head(encoded)  # (B, E, V+1)
        if tokens is not None:
            tokens = nn.functional.pad(tokens, (0, int(tokens.shape[1] == 0), 0, int(batch == 0)))
            spelled = self.decoder(tokens, encoded, lengths)  # (B, U, V+1)
            return Recognised(logits[:batch], lengths[:batch], spelled[:batch])
        if self.training and any(parameter.requires_grad for parameter in self.decoder.parameters()):
            logits = logits + self._nothing(encoded)
        return logits[:batch], lengths[:batch]

    def encode(self, features: Tensor, lengths: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
        """(B, F, M), (B,) → (B, E, D), (B,); with `chunk` no frame sees beyond its chunk of so many, else the whole.

        Raises ModelError where the front end cannot hear in chunks.
        """
        batch = len(features)
        features, lengths = with_stand_in(features, lengths)
        x, lengths = self.front_end(features, lengths, Chunks(chunk))  # (B, E, D)
        if chunk is not None:
            chunk = min(chunk, -(-x.shape[1] // COARSEST) * COARSEST)
        x = self.encoder(x, lengths, Chunks(chunk))
        return x[:batch], lengths[:batch]

    def stream(self) -> Memory:
        """For `encode_chunk`, before the first. Raises ModelError where the features depend on the whole utterance."""
        if clipwise := self.config.frontend.clipwise:
            raise ModelError(f"model.frontend: {clipwise} looks at the whole utterance, which a stream never has; "
                             "expected kind logmel with style kaldi and normalize none. Train such a model, or "
                             "transcribe whole files")
        return Memory()

    def encode_chunk(self, features: Tensor, memory: Memory) -> Tensor:
        """(1, F, M), those of the next chunk of a stream → (1, E, D), the same as `encode` gives with such a chunk.

        All but the last have as many features as make a multiple of four frames (`chunk_features`).
        """
        lengths = torch.tensor([features.shape[1]], device=features.device)
        if not features.shape[1]:
            return features.new_zeros(1, 0, self.ctc_head.in_features)
        x, lengths = self.front_end(features, lengths, Chunks(memory=memory))
        return self.encoder(x, lengths, Chunks(memory=memory))

    def chunk_features(self, chunk: int) -> int:
        """Encoder frames of a chunk → feature frames that make it."""
        return chunk * self.front_end.factor

    def saved_config(self, hub: set[str]) -> Config:
        """What builds this model again where only the components in `hub` can be fetched and the rest is stored."""
        if not isinstance(self.config.frontend, WaveConfig):
            return self.config
        encoder = self.config.frontend.encoder
        if "frontend" in hub:
            encoder = encoder.model_copy(update={"revision": self.hub_parts["frontend"].revision})
        else:
            encoder = standalone(encoder, self.front_end.encoder)
        frontend = self.config.frontend.model_copy(update={"encoder": encoder})
        return self.config.model_copy(update={"frontend": frontend})

    def summary(self) -> list[str]:
        """Lines that tell its size and what trains now."""
        return summary(self.config, self.components())

    def label_tensors(self) -> tuple[str, ...]:
        """Names of the parameters that have a row a label, and the last for the blank or the end symbol."""
        return ("ctc_head.weight", "ctc_head.bias", "decoder.embedding.weight", "decoder.project_out.weight")

    def _drawn_chunk(self) -> int | None:
        """From the CPU's generator, which training seeds anew for each step."""
        streaming = self.config.streaming
        if streaming is None or not self.training:
            return None
        whole, which = torch.rand(2).tolist()
        if whole < streaming.whole:
            return None
        return chunk_frames(streaming.chunk_seconds[int(which * len(streaming.chunk_seconds))])

    def _nothing(self, encoded: Tensor) -> Tensor:
        """() 0, whose graph reaches the decoder: each parameter that trains takes part in each micro-batch."""
        token = torch.zeros(1, 1, dtype=torch.long, device=encoded.device)
        return 0 * self.decoder(token, encoded.new_zeros(1, 1, encoded.shape[-1]), token[0]).sum()


def build(config: Config, vocabulary: int) -> VoxFormer:
    """Pretrained parts are fetched, others have fresh weights; `vocabulary` counts the labels, without blank and end.

    Raises ConfigError and ModelError.
    """
    front_end = find(f"{ROOM}.frontends", config.frontend.kind).build(config.frontend, config.encoder.width_in)
    encoder = find(f"{ROOM}.encoders", config.encoder.kind).build(config.encoder)
    width = config.encoder.width_out
    decoder = AttentionDecoder(config.decoder, width, width, vocabulary)
    model = VoxFormer(config, front_end, encoder, decoder, nn.Linear(width, vocabulary + 1))
    model.hub_parts = _hub_parts(model)
    return model


def _hub_parts(model: VoxFormer) -> dict[str, HubPart]:
    if not isinstance(model.config.frontend, WaveConfig):
        return {}
    name, commit = model.config.frontend.encoder.pretrained, model.front_end.encoder.commit
    if not name or not commit or Path(name).is_dir():
        return {}
    return {"frontend": HubPart(hub=name, revision=commit, hash=weights_hash(component_tensors(model)["frontend"]))}

"""Speech to text by an encoder that a CTC head aligns and an attention decoder spells (Watanabe et al. 2017).

The loss is λ · CTC + (1 - λ) · cross entropy of the decoder, which learns the labels and the end symbol after them.
Both are sums over utterances and counted by themselves: CTC in labels, the decoder in labels and ends. Label smoothing
adds a term of its own while training, and is part of no evaluation.

# B utterances · E encoder frames · D width · U labels · V labels there are: class V is the CTC head's blank, and the
# decoder's end symbol
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from auricle.core.errors import ConfigError, UsageError
from auricle.core.text import normalizer
from auricle.data.judge import Checks
from auricle.data.tokenizers import Tokenizer
from auricle.models import Model
from auricle.models.parts.components import unwrapped
from auricle.models.parts.masks import valid_frames
from auricle.models.voxformer.config import chunk_frames
from auricle.models.voxformer.model import VoxFormer
from auricle.tasks import Hypothesis, Loss, Task, Term
from auricle.tasks.hybrid import search
from auricle.tasks.hybrid.batch import Collate, HybridBatch
from auricle.tasks.hybrid.config import Config
from auricle.tasks.hybrid.ctc_prefix import CtcPrefix
from auricle.tasks.hybrid.listener import Listener
from auricle.tasks.parts import labels as parts
from auricle.tasks.parts.ctc_decoding import greedy, prefix_beam
from auricle.tasks.parts.ctc_loss import EncoderFrames, ctc_loss, log_softmax
from auricle.tasks.parts.hotwords import HotwordScorer
from auricle.tasks.parts.labels import Labels, Said

CTC, ATTENTION, SMOOTHING = "ctc", "attention", "label_smoothing"
DECODERS = ("joint", "attention_beam", "attention", "ctc_beam", "ctc")

tokenizer_for = parts.tokenizer_for


Encoded = tuple[Tensor, Tensor]
"""What all decoders read: (B, E, D) frames and (B,) how many they are."""


class HybridTask(Task):
    """For models with `encode`, `ctc_head` and `decoder`, as VoxFormer has them."""

    metrics = ("wer", "cer")
    beams = ("joint", "attention_beam", "ctc_beam")

    def __init__(self, config: Config, model: Model, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer, self.frontend = config, tokenizer, model.frontend
        self.blank, self.max_seconds = tokenizer.size, config.max_seconds
        self.decoders = tuple(sorted(DECODERS, key=lambda name: name != config.decoder))
        self.labels = Labels(normalizer(config.normalizer), tokenizer)
        self.hotwords = parts.hotwords_of(config, self.labels)
        spelt = (ATTENTION, SMOOTHING) if config.label_smoothing_factor else (ATTENTION,)
        self.collate = Collate(parts.Collate(model.frontend, self.labels), tokenizer.size, spelt)
        self.chunk = chunk_frames(config.chunk_seconds) if config.chunk_seconds else None
        self.floors = _floors(config, tokenizer.size + 1)
        schedule = config.ctc_schedule
        self.aligns = max(schedule.start, schedule.end) > 0
        self._frames = EncoderFrames(model.frontend.sample_rate, model.output_lengths)

    def checks(self) -> Checks:
        """Where λ is 0 throughout, nothing must be aligned."""
        aligned = {"frames": self._frames, "frames_needed": self.labels.frames_needed} if self.aligns else {}
        return Checks(unknown_characters=self.labels.unknown, **aligned)

    def weights(self, steps: int) -> Mapping[str, float]:
        """Of the terms while training, after so many steps of the stage."""
        ctc, factor = self.config.ctc_schedule.at(steps), self.config.label_smoothing_factor
        smoothing = {SMOOTHING: (1 - ctc) * factor} if factor else {}
        return {CTC: ctc, ATTENTION: (1 - ctc) * (1 - factor), **smoothing}

    def loss(self, model: nn.Module, batch: HybridBatch) -> Loss:
        """Terms "ctc" and "attention", and while training "label_smoothing", with the weights that they end with.

        In eval mode an utterance that CTC cannot align (unreadable audio) adds nothing to its term.
        """
        found = model(batch.features, batch.feature_lengths, batch.tokens)
        forgiving = not model.training or not self.aligns
        sums = {CTC: ctc_loss(found.ctc_logits, found.lengths, batch, forgiving=forgiving)}
        sums |= dict(zip((ATTENTION, SMOOTHING), _spelling_losses(found.decoder_logits, batch), strict=True))
        ctc = self.config.ctc_schedule.end
        weights = self.weights(self.config.ctc_schedule.steps) if model.training else {CTC: ctc, ATTENTION: 1 - ctc}
        return Loss(terms={name: Term(sum=sums[name], count=batch.counts[name], weight=weight)
                           for name, weight in weights.items()})

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: HybridBatch, decoder: str = "") -> list[Hypothesis]:
        """By the CTC head alone ("ctc", "ctc_beam"), by the decoder ("attention", "attention_beam"), or by both in one
        beam ("joint").

        Scores: "log_probability" of the labels, or "score", that of a beam with what hotwords add, divided by its
        length; "cut" is 1.0 where a hypothesis was ended by the limit of its length.
        """
        decoder = parts.chosen(decoder, self.decoders)
        return self.decode(model, batch, self.encode(model, batch), decoder)

    @torch.no_grad()
    def encode(self, model: nn.Module, batch: HybridBatch) -> Encoded:
        return unwrapped(model).encode(batch.features, batch.feature_lengths, self.chunk)

    def decode(self, model: nn.Module, batch: HybridBatch, encoded: Encoded, decoder: str) -> list[Hypothesis]:
        said = self.spelled(unwrapped(model), *encoded, decoder)
        return parts.hypotheses(batch, said, self.tokenizer)

    @torch.no_grad()
    def spelled(self, model: nn.Module, memory: Tensor, lengths: Tensor, decoder: str = "") -> Sequence[Said]:
        """(B, E, D), (B,) → the labels of each utterance and their scores."""
        decoder = parts.chosen(decoder, self.decoders)
        if decoder in ("ctc", "ctc_beam"):
            return self._aligned(log_softmax(model.ctc_head(memory)), lengths, decoder)
        if memory.device.type == "mps":
            raise UsageError(f"decoder: '{decoder}' computes in double precision, which an Apple GPU does not have; "
                             "expected cpu or cuda. Set the device to cpu, or decode by ctc")
        limit = search.limits(lengths, self.config.max_new_tokens)
        if decoder == "attention":
            return _said(search.greedy(model.decoder, memory, lengths, limit), "log_probability")
        size, ctc = self.config.beam_size, self.config.joint_ctc_weight if decoder == "joint" else 0.0
        scorers = [(1 - ctc, search.Attention(model.decoder, memory, lengths, size))]
        if ctc:
            scorers.append((ctc, CtcPrefix(log_softmax(model.ctc_head(memory)), lengths, size)))
        if self.hotwords:
            scorers.append((1.0, HotwordScorer(self.hotwords, len(memory), size, memory.device)))
        found = search.beam(scorers, limit, size=size, end=self.blank, length_penalty=self.config.length_penalty)
        return _said(found, "score")

    def listener(self, model: VoxFormer, chunk_seconds: float) -> Listener:
        """For audio that is still being spoken. Raises ModelError for a model that cannot hear in chunks, and
        ValueError for a chunk that is no whole number of frames at the encoder's lowest rate."""
        return Listener(self, model, chunk_seconds)

    def _aligned(self, log_probs: Tensor, lengths: Tensor, decoder: str) -> Sequence[Said]:
        """(B, E, V+1), (B,)"""
        if decoder == "ctc":
            return [(labels, {}) for labels in greedy(log_probs, lengths, self.blank)]
        beams = prefix_beam(log_probs, lengths, self.blank, self.config.beam_size, self.hotwords)
        return [(labels, {"log_probability": log_p}) for (labels, log_p), *_ in beams]


def _said(found: Sequence[search.Found], score: str) -> Sequence[Said]:
    best = [(one.hypotheses[0], one.cut) for one in found]
    return [(labels, {score: value, "cut": float(cut)}) for (labels, value), cut in best]


def _spelling_losses(logits: Tensor, batch: HybridBatch) -> tuple[Tensor, Tensor]:
    """(B, U+1, V+1) → sums over labels and ends of -log p(it), and of the mean over classes of -log p(class)."""
    log_probs = log_softmax(logits)
    end = logits.shape[-1] - 1
    targets = functional.pad(batch.tokens[:, 1:], (0, 1), value=end).unsqueeze(-1)  # (B, U+1, 1)
    padding = ~valid_frames(batch.label_lengths + 1, targets.shape[1])  # (B, U+1)
    picked = log_probs.gather(-1, targets).squeeze(-1)
    return tuple(-one.masked_fill(padding, 0.0).sum() for one in (picked, log_probs.mean(-1)))


def _floors(config: Config, classes: int) -> dict[str, float]:
    """The lowest values that the smoothed loss of the decoder, and with it the whole loss, can reach: nats a symbol."""
    factor = config.label_smoothing_factor
    if not factor:
        return {}
    floor = smoothing_floor(factor, classes)
    return {"attention_smoothed": floor, "loss": (1 - config.ctc_schedule.end) * floor}


def smoothing_floor(factor: float, classes: int) -> float:
    """Entropy of a target that is 1 - ε of one class and ε of all classes alike, in nats: cross entropy with it can be
    no lower.

    >>> round(smoothing_floor(0.1, 2000), 3)
    1.085
    """
    other = factor / classes
    own = 1 - factor + other
    return -own * math.log(own) - (classes - 1) * other * math.log(other) if factor else 0.0


def build(config: Config, model: Model, tokenizer: Tokenizer) -> HybridTask:
    missing = [name for name in ("encode", "ctc_head", "decoder") if not hasattr(model, name)]
    if missing:
        raise ConfigError("task.kind: 'hybrid' needs a model with a CTC head and an attention decoder, and this one "
                          f"has no {missing[0]}; expected one such as model.kind voxformer")
    return HybridTask(config, model, tokenizer)

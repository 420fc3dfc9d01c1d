"""Speech to text by connectionist temporal classification (Graves et al. 2006).

The loss is -log p(labels | audio), summed over utterances and counted in labels. It is infinite for an utterance with
fewer encoder frames than labels and repeats; `checks` gives judging what it needs to leave such rows out of training.

# B utterances · E encoder frames · V labels, class V is the blank
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from auricle.core.errors import UsageError, nearest
from auricle.core.frame import Block
from auricle.core.text import normalizer
from auricle.data.judge import Checks
from auricle.data.tokenizers import Characters, Tokenizer, train_tokenizer
from auricle.models import Model
from auricle.tasks import Hypothesis, Loss, Task, Term
from auricle.tasks.ctc.batch import Collate, CtcBatch
from auricle.tasks.ctc.config import Config
from auricle.tasks.ctc.decoding import greedy, prefix_beam


@dataclass(frozen=True)
class Labels:
    """A transcript's labels: normalised, then encoded."""

    normalize: Callable[[str], str]
    tokenizer: Tokenizer

    def __call__(self, text: str) -> list[int]:
        return self.tokenizer.encode(self.normalize(text))

    def unknown(self, text: str) -> str:
        return self.tokenizer.unknown(self.normalize(text))

    def frames_needed(self, text: str) -> int:
        """Labels and repeats: a blank must stand between equal labels (Graves et al. 2006, §3.1)."""
        labels = self(text)
        return len(labels) + sum(a == b for a, b in pairwise(labels))


class CtcTask(Task):
    """For models whose forward gives (B, E, V+1) logits and (B,) lengths, with the blank as class V."""

    metrics = ("wer", "cer")

    def __init__(self, config: Config, model: Model, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.frontend, self.beam_size = tokenizer, model.frontend, config.beam_size
        self.blank = tokenizer.size
        self.decoders = tuple(sorted(("greedy", "beam"), key=lambda name: name != config.decoder))
        self.labels = Labels(normalizer(config.normalizer), tokenizer)
        self.collate = Collate(model.frontend, self.labels)
        self._output_lengths = model.output_lengths

    def checks(self) -> Checks:
        return Checks(unknown_characters=self.labels.unknown, frames=self._frames,
                      frames_needed=self.labels.frames_needed)

    def _frames(self, seconds: np.ndarray) -> np.ndarray:
        """Encoder frames of so much audio. Resampling rounds half a sample either way: we count the shorter clip."""
        samples = np.ceil(seconds * self.frontend.sample_rate - 0.5).astype(np.int64)
        return self._output_lengths(torch.from_numpy(samples)).numpy()

    def loss(self, model: nn.Module, batch: CtcBatch) -> Loss:
        """Term "ctc". In eval mode an impossible utterance (unreadable audio) adds nothing instead of infinity."""
        log_probs, lengths = _log_probs(model, batch)
        if batch.ids:
            total = functional.ctc_loss(log_probs.transpose(0, 1), batch.labels, lengths, batch.label_lengths,
                                        blank=self.blank, reduction="sum", zero_infinity=not model.training)
        else:
            total = log_probs.sum()  # nothing to add up, and yet a graph that gives every parameter its zeros
        return Loss(terms={"ctc": Term(sum=total, count=batch.counts["ctc"])})

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: CtcBatch, decoder: str = "") -> list[Hypothesis]:
        """By "greedy" or "beam"; the beam's scores hold the log probability of the labels."""
        decoder = decoder or self.decoders[0]
        if decoder not in self.decoders:
            raise UsageError(f"decoder: no '{decoder}'; {nearest(decoder, self.decoders)}")
        log_probs, lengths = _log_probs(model, batch)
        decoded = self._decode(log_probs, lengths, decoder)
        rows = zip(batch.ids, batch.references, batch.utterance_seconds, decoded, strict=True)
        decode = self.tokenizer.decode
        return [Hypothesis(id=name, text=decode(labels), reference=reference, seconds=seconds, scores=scores)
                for name, reference, seconds, (labels, scores) in rows]

    def _decode(self, log_probs: Tensor, lengths: Tensor, decoder: str) -> list[tuple[Sequence[int], dict]]:
        if decoder == "greedy":
            return [(labels, {}) for labels in greedy(log_probs, lengths, self.blank)]
        beams = prefix_beam(log_probs, lengths, self.blank, self.beam_size)
        return [(labels, {"log_probability": log_p}) for (labels, log_p), *_ in beams]


def _log_probs(model: nn.Module, batch: CtcBatch) -> tuple[Tensor, Tensor]:
    """(B, E, V+1) in at least fp32, whatever autocast made of the logits, and (B,)."""
    logits, lengths = model(batch.features, batch.feature_lengths)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1), lengths


def build(config: Config, model: Model, tokenizer: Tokenizer) -> CtcTask:
    return CtcTask(config, model, tokenizer)


def tokenizer_for(config: Config, model_config: Block, texts: Iterable[str]) -> Tokenizer:
    """A tokenizer for the alphabet that is given or that the model's CTC head has, or one trained on the transcripts,
    normalised."""
    normalize = normalizer(config.normalizer)
    alphabet = getattr(model_config, "ctc_alphabet", None) or config.tokenizer.alphabet
    if alphabet is not None:
        return Characters(alphabet)
    return train_tokenizer(config.tokenizer.kind, map(normalize, texts), config.tokenizer.vocabulary_size)

"""Speech to text by connectionist temporal classification (Graves et al. 2006).

The loss is -log p(labels | audio), summed over utterances and counted in labels. It is infinite for an utterance with
fewer encoder frames than labels and repeats; `checks` gives judging what it needs to leave such rows out of training.

# B utterances · E encoder frames · V labels, class V is the blank
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from auricle.core.text import normalizer
from auricle.data.judge import Checks
from auricle.data.tokenizers import Tokenizer
from auricle.models import Model
from auricle.tasks import Hypothesis, Loss, Task, Term
from auricle.tasks.ctc.config import Config
from auricle.tasks.parts import labels as parts
from auricle.tasks.parts.ctc_decoding import greedy, prefix_beam
from auricle.tasks.parts.ctc_loss import EncoderFrames, ctc_loss, log_softmax
from auricle.tasks.parts.labels import Collate, LabelledBatch, Labels, Said

tokenizer_for = parts.tokenizer_for


class CtcTask(Task):
    """For models whose forward gives (B, E, V+1) logits and (B,) lengths, with the blank as class V."""

    metrics = ("wer", "cer")
    beams = ("beam",)

    def __init__(self, config: Config, model: Model, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.frontend, self.beam_size = tokenizer, model.frontend, config.beam_size
        self.blank = tokenizer.size
        self.decoders = tuple(sorted(("greedy", "beam"), key=lambda name: name != config.decoder))
        self.labels = Labels(normalizer(config.normalizer), tokenizer)
        self.hotwords = parts.hotwords_of(config, self.labels)
        self.collate = Collate(model.frontend, self.labels)
        self._frames = EncoderFrames(model.frontend.sample_rate, model.output_lengths)

    def checks(self) -> Checks:
        return Checks(unknown_characters=self.labels.unknown, frames=self._frames,
                      frames_needed=self.labels.frames_needed)

    def loss(self, model: nn.Module, batch: LabelledBatch) -> Loss:
        """Term "ctc". In eval mode an impossible utterance (unreadable audio) adds nothing instead of infinity."""
        total = ctc_loss(*model(batch.features, batch.feature_lengths), batch, forgiving=not model.training)
        return Loss(terms={"ctc": Term(sum=total, count=batch.counts["ctc"])})

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: LabelledBatch, decoder: str = "") -> list[Hypothesis]:
        """By "greedy" or "beam"; the beam's scores hold the log probability of the labels."""
        decoder = parts.chosen(decoder, self.decoders)
        return self.decode(model, batch, self.encode(model, batch), decoder)

    def encode(self, model: nn.Module, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        """(B, E, V+1) log probabilities and (B,) lengths."""
        logits, lengths = model(batch.features, batch.feature_lengths)
        return log_softmax(logits), lengths

    def decode(self, model: nn.Module, batch: LabelledBatch, encoded: tuple[Tensor, Tensor],  # noqa: ARG002
               decoder: str) -> list[Hypothesis]:
        return parts.hypotheses(batch, self._said(*encoded, decoder), self.tokenizer)

    def _said(self, log_probs: Tensor, lengths: Tensor, decoder: str) -> Sequence[Said]:
        if decoder == "greedy":
            return [(labels, {}) for labels in greedy(log_probs, lengths, self.blank)]
        beams = prefix_beam(log_probs, lengths, self.blank, self.beam_size, self.hotwords)
        return [(labels, {"log_probability": log_p}) for (labels, log_p), *_ in beams]


def build(config: Config, model: Model, tokenizer: Tokenizer) -> CtcTask:
    return CtcTask(config, model, tokenizer)

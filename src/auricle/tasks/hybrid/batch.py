"""Utterances to a batch with labels for the CTC head and tokens for the decoder; runs in loader workers.

# B utterances · U labels of the longest one · V labels, class V of the decoder is its end symbol
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from auricle.data.loader import Utterance
from auricle.tasks.parts import labels


@dataclass(frozen=True, kw_only=True)
class HybridBatch(labels.LabelledBatch):
    tokens: Tensor
    """(B, U+1): the end symbol, the labels, and more end symbols as padding. What follows each is what is learned."""


@dataclass(frozen=True)
class Collate:
    """What `HybridTask.collate` does; each of the decoder's terms counts labels and ends."""

    collate: labels.Collate
    end: int
    terms: Sequence[str]

    def __call__(self, utterances: Sequence[Utterance]) -> HybridBatch:
        batch = self.collate(utterances)
        spelt = batch.labels.split(batch.label_lengths.tolist())
        begin = torch.tensor([self.end])
        rows = [torch.cat([begin, one]) for one in spelt] or [begin]
        tokens = pad_sequence(rows, batch_first=True, padding_value=self.end)[: len(utterances)]  # (B, U+1)
        said = float(len(batch.labels) + len(utterances))
        return HybridBatch(**{**vars(batch), "counts": {**batch.counts, **dict.fromkeys(self.terms, said)}},
                           tokens=tokens)

"""Utterances to a batch; runs in loader workers, so it knows the features and the labels but no weights.

# B utterances · T samples · F frames · M mel bins · U labels of one utterance
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from auricle.data.loader import Utterance
from auricle.tasks import Batch


@dataclass(frozen=True, kw_only=True)
class CtcBatch(Batch):
    features: Tensor
    """(B, F, M), zeros after an utterance's end"""
    feature_lengths: Tensor
    """(B,) frames"""
    labels: Tensor
    """(ΣU,) the labels of all utterances, one after the other"""
    label_lengths: Tensor
    """(B,) labels"""
    utterance_seconds: tuple[float, ...]


@dataclass(frozen=True)
class Collate:
    """What `CtcTask.collate` does."""

    frontend: nn.Module
    labels: Callable[[str], list[int]]

    def __call__(self, utterances: Sequence[Utterance]) -> CtcBatch:
        features = [self._features(utterance) for utterance in utterances]
        labels = [self.labels(utterance.text) for utterance in utterances]
        padded = pad_sequence(features, batch_first=True) if features else torch.zeros(0, 0, self.frontend.n_mels)
        return CtcBatch(
            ids=tuple(utterance.id for utterance in utterances),
            references=tuple(utterance.text for utterance in utterances),
            seconds=sum(utterance.seconds for utterance in utterances),
            counts={"ctc": sum(map(len, labels))},
            frames=sum(map(len, features)), padded_frames=padded.shape[0] * padded.shape[1],
            features=padded, feature_lengths=torch.tensor([len(one) for one in features], dtype=torch.long),
            labels=torch.tensor([label for one in labels for label in one], dtype=torch.long),
            label_lengths=torch.tensor([len(one) for one in labels], dtype=torch.long),
            utterance_seconds=tuple(utterance.seconds for utterance in utterances))

    def _features(self, utterance: Utterance) -> Tensor:
        assert utterance.sample_rate == self.frontend.sample_rate, f"{utterance.id}: {utterance.sample_rate} Hz"
        features = self.frontend(utterance.audio)  # (F, M)
        if utterance.augment_features is None:
            return features
        return torch.from_numpy(utterance.augment_features(features.numpy()))

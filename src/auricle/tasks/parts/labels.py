"""Transcripts to labels and back, utterances to a batch of features and labels; what tasks share that learn to spell.

Collating runs in loader workers, so it knows the features and the labels but no weights.

# B utterances · F frames · M mel bins · U labels of one utterance
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from auricle.core.errors import ConfigError, UsageError, nearest
from auricle.core.frame import Block
from auricle.core.text import normalizer
from auricle.data.loader import Utterance
from auricle.data.tokenizers import Characters, Tokenizer, train_tokenizer
from auricle.tasks import Batch, Hypothesis
from auricle.tasks.parts.hotwords import Hotwords, hotwords
from auricle.tasks.parts.label_config import LabelConfig

Said = tuple[Sequence[int], dict[str, float]]
"""Labels that a decoder found for one utterance, and their scores."""


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


@dataclass(frozen=True, kw_only=True)
class LabelledBatch(Batch):
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
    """Utterances → batch; its count "ctc" is the number of labels."""

    frontend: nn.Module
    labels: Callable[[str], list[int]]

    def __call__(self, utterances: Sequence[Utterance]) -> LabelledBatch:
        features = [self._features(utterance) for utterance in utterances]
        labels = [self.labels(utterance.text) for utterance in utterances]
        padded = pad_sequence(features, batch_first=True) if features else torch.zeros(0, 0, self.frontend.n_mels)
        return LabelledBatch(
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
        features = self.frontend(utterance.audio if utterance.features is None else utterance.features)  # (F, M)
        if utterance.augment_features is None:
            return features
        return torch.from_numpy(utterance.augment_features(features.numpy()))


def hotwords_of(config: LabelConfig, labels: Labels) -> Hotwords | None:
    """The phrases that the config names, for searches; None where there are none. Raises ConfigError."""
    for phrase in config.hotwords:
        if unknown := labels.unknown(phrase):
            raise ConfigError(f"task.hotwords: '{phrase}' has '{unknown}', which no label spells; expected phrases in "
                              "the alphabet of the training transcripts. Write it in those letters, or leave it out")
        if not labels(phrase):
            raise ConfigError(f"task.hotwords: nothing is left of '{phrase}' once it is normalised as the transcripts "
                              "are; expected words. Leave it out")
    if not config.hotwords:
        return None
    return hotwords(config.hotwords, labels, labels.tokenizer.decode, labels.tokenizer.size, config.hotword_bonus)


def chosen(decoder: str, decoders: Sequence[str]) -> str:
    """The decoder of that name, or the first where none is named. Raises UsageError with the nearest name."""
    if decoder and decoder not in decoders:
        raise UsageError(f"decoder: no '{decoder}'; {nearest(decoder, decoders)}")
    return decoder or decoders[0]


def hypotheses(batch: LabelledBatch, said: Sequence[Said], tokenizer: Tokenizer) -> list[Hypothesis]:
    """What was said about each utterance of the batch, as text."""
    rows = zip(batch.ids, batch.references, batch.utterance_seconds, said, strict=True)
    return [Hypothesis(id=name, text=tokenizer.decode(labels), reference=reference, seconds=seconds, scores=scores)
            for name, reference, seconds, (labels, scores) in rows]


def tokenizer_for(config: LabelConfig, model_config: Block, texts: Iterable[str]) -> Tokenizer:
    """A tokenizer for the alphabet that is given or that the model's CTC head has, or one trained on the transcripts,
    normalised."""
    normalize = normalizer(config.normalizer)
    alphabet = getattr(model_config, "ctc_alphabet", None) or config.tokenizer.alphabet
    if alphabet is not None:
        return Characters(alphabet)
    return train_tokenizer(config.tokenizer.kind, map(normalize, texts), config.tokenizer.vocabulary_size)

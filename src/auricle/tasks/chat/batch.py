"""Utterances to a batch of conversations; runs in loader workers.

# B utterances · F feature frames · M mel bins · S positions
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from auricle.data.loader import Utterance
from auricle.models.speech_llm.model import Conversation
from auricle.tasks import Batch
from auricle.tasks.chat.prompt import Prompter, Turn, conversation


@dataclass(frozen=True, kw_only=True)
class ChatBatch(Batch):
    features: Tensor
    """(B, F, M); what follows an utterance's end is not read"""
    feature_lengths: Tensor
    """(B,) frames, 0 for a row of text"""
    tokens: Tensor
    """(B, S) prompt and answer, padded on the right (with `valid`, `is_audio`, `labels`: a Conversation)"""
    valid: Tensor
    is_audio: Tensor
    labels: Tensor
    prompt_lengths: Tensor
    """(B,) positions up to where the answer begins"""
    frame_lengths: Tensor
    """(B,) the same, if there were nothing to hear"""
    utterance_seconds: tuple[float, ...]
    encoded: bool = False
    """Whether `features` are what a frozen encoder made of the audio, (B, E, ·), and the lengths count those."""

    @property
    def conversation(self) -> Conversation:
        return Conversation(self.tokens, self.valid, self.is_audio, self.labels)


@dataclass(frozen=True)
class AudioTokens:
    """Samples → tokens of the projector; knows no weights."""

    encoder: nn.Module
    projector: nn.Module

    def __call__(self, samples: int) -> int:
        return self.of_frames(self.encoder.lengths(samples))

    def of_frames(self, frames: int) -> int:
        return int(self.projector.lengths(frames))


@dataclass(frozen=True)
class Collate:
    """What `ChatTask.collate` does."""

    frontend: nn.Module
    prompter: Prompter
    instruction: str
    """Asked where an utterance says nothing else."""
    normalize: Callable[[str], str]
    audio_tokens: AudioTokens
    """Samples → tokens of the projector, and frames → the same."""
    terms: tuple[str, ...]
    """Names of the terms that are counted in answer tokens."""
    audio_terms: tuple[str, ...]
    """Names of the terms that are counted in audio tokens …"""
    batch_terms: tuple[str, ...]
    """… and of those that each batch has once."""

    def __call__(self, utterances: Sequence[Utterance]) -> ChatBatch:
        encoded = [utterance.frames for utterance in utterances if utterance.frames is not None]
        width = encoded[0].shape[1] if encoded else self.frontend.n_mels
        features = [self._features(utterance, width) for utterance in utterances]
        turns = [self._turn(utterance) for utterance in utterances]
        audio = self.prompter.tokenizer.audio
        talk = conversation(turns, audio)
        lengths = [self._frames(utterance) for utterance in utterances]
        padded = pad_sequence(features, batch_first=True) if features else torch.zeros(0, 0, width)
        answered, heard = float(sum(len(turn.answer) for turn in turns)), float(talk.is_audio.sum())
        return ChatBatch(
            ids=tuple(utterance.id for utterance in utterances),
            references=tuple(utterance.text for utterance in utterances),
            seconds=sum(utterance.seconds for utterance in utterances),
            counts={**dict.fromkeys(self.terms, answered), **dict.fromkeys(self.audio_terms, heard),
                    **dict.fromkeys(self.batch_terms, float(bool(turns)))},
            frames=int(talk.valid.sum()), padded_frames=talk.valid.numel(),
            features=padded, feature_lengths=torch.tensor(lengths, dtype=torch.long),
            tokens=talk.ids, valid=talk.valid, is_audio=talk.is_audio, labels=talk.labels,
            prompt_lengths=torch.tensor([len(turn.prompt) for turn in turns], dtype=torch.long),
            frame_lengths=torch.tensor([self._frame(utterance) for utterance in utterances], dtype=torch.long),
            utterance_seconds=tuple(utterance.seconds for utterance in utterances), encoded=bool(encoded))

    def _turn(self, utterance: Utterance) -> Turn:
        tokens = 0 if utterance.audio is None else self.audio_tokens(len(utterance.audio))
        if utterance.frames is not None:
            tokens = self.audio_tokens.of_frames(len(utterance.frames))
        prompt = self.prompter.prompt(utterance.instruction or self.instruction, tokens, utterance.heard)
        return Turn(prompt, self.prompter.answer(self.normalize(utterance.text)))

    def _frame(self, utterance: Utterance) -> int:
        return len(self.prompter.prompt(utterance.instruction or self.instruction, 0))

    def _frames(self, utterance: Utterance) -> int:
        if utterance.frames is not None:
            return len(utterance.frames)
        return 0 if utterance.audio is None else self.frontend.lengths(len(utterance.audio))

    def _features(self, utterance: Utterance, width: int) -> Tensor:
        if utterance.frames is not None:
            return utterance.frames
        if utterance.audio is None:
            return torch.zeros(0, width)
        assert utterance.sample_rate == self.frontend.sample_rate, f"{utterance.id}: {utterance.sample_rate} Hz"
        features = self.frontend(utterance.audio)  # (F, M)
        if utterance.augment_features is None:
            return features
        return torch.from_numpy(utterance.augment_features(features.numpy()))

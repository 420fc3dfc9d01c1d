"""Streams: what is heard chunk by chunk is what chunks at once give, whatever the blocks that samples come in."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auricle.core.errors import ModelError
from auricle.data.loader import Utterance
from auricle.models.voxformer.chunks import Memory
from auricle.models.voxformer.config import LogMelConfig
from auricle.models.voxformer.model import build as build_model
from auricle.tasks.hybrid.config import Config
from auricle.tasks.hybrid.listener import MAX_SECONDS, PAUSE_SECONDS
from auricle.tasks.hybrid.task import build, tokenizer_for
from tests.tasks.hybrid.test_task import example, tiny
from tests.utterances import WORDS

RATE = 16_000


def heard(listener, audio, sizes):
    found, first = [], 0
    for size in sizes:
        found += listener.feed(audio[first : first + size])
        first += size
    return found + list(listener.feed(audio[first:])) + list(listener.finish())


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 9000), max_size=6), st.integers(300, 40_000), st.sampled_from([0.08, 0.32, 0.64]),
       st.sampled_from(["joint", "attention_beam", "ctc"]))
def test_what_is_said_in_the_end_is_what_chunks_at_once_say(sizes, samples, seconds, decoder):
    task, model = example(Config(beam_size=3, max_new_tokens=12, chunk_seconds=seconds, decoder=decoder))
    model.eval()
    audio = torch.randn(samples, generator=torch.Generator().manual_seed(samples)).numpy()
    told = heard(task.listener(model, seconds), audio, sizes)
    batch = task.collate([Utterance(id="a", audio=audio, sample_rate=RATE, text="", seconds=samples / RATE)])
    whole, = task.predict(model, batch)
    (aligned, _), = task.spelled(model, *task.encode(model, batch), "ctc")
    assert [one.text for one in told if one.final] == [whole.text] * bool(aligned)
    assert not told or told[-1].stop == pytest.approx(samples / RATE)


@pytest.mark.parametrize("size", [1, 160, 5000])
def test_blocks_of_any_size_are_heard_alike_and_partial_text_grows(size):
    task, model = example()
    model.eval()
    audio = np.random.default_rng(1).standard_normal(30_000).astype(np.float32)
    told = heard(task.listener(model, 0.32), audio, [size] * (6000 // size))
    assert told == heard(task.listener(model, 0.32), audio, [])
    partial = [one.text for one in told if not one.final]
    assert all(later.startswith(earlier) for earlier, later in pairwise(partial))
    assert [one.final for one in told][-1]


class Loud(nn.Module):
    """Labels where it is loud: a label, then the other, a frame each; the blank elsewhere."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.ctc_head = nn.Linear(labels + 1, labels + 1, bias=False)
        nn.init.eye_(self.ctc_head.weight)

    def stream(self) -> Memory:
        return Memory()

    def encode_chunk(self, features: torch.Tensor, memory: Memory) -> torch.Tensor:
        loud = features[0, : features.shape[1] // 2 * 2 : 2].mean(-1) > -8  # (E,)
        classes = torch.where(loud, torch.arange(len(loud)) % 2, self.ctc_head.in_features - 1)
        return 9.0 * nn.functional.one_hot(classes, self.ctc_head.in_features).float().unsqueeze(0)


def speech(*stretches: tuple[float, float]) -> np.ndarray:
    """(loudness, seconds) each."""
    rng = np.random.default_rng(0)
    parts = [loud * rng.standard_normal(int(seconds * RATE)) for loud, seconds in stretches]
    return np.concatenate(parts).astype(np.float32)


def stretches_of(audio: np.ndarray) -> list[tuple[float, float]]:
    task, _ = example(Config(decoder="ctc"))
    told = heard(task.listener(Loud(task.tokenizer.size), 0.32), audio, [])
    return [(one.start, one.stop) for one in told if one.final]


def test_a_pause_ends_a_stretch_and_the_next_one_begins_anew():
    found = stretches_of(speech((0.1, 1.0), (0.0, PAUSE_SECONDS + 0.8), (0.1, 1.0), (0.0, 0.3)))
    assert len(found) == 2
    assert 1.0 + PAUSE_SECONDS <= found[0][1] <= 1.0 + PAUSE_SECONDS + 0.4
    assert found[1][0] == found[0][1]


def test_who_never_pauses_is_cut_and_who_never_speaks_says_nothing():
    assert [round(stop - start) for start, stop in stretches_of(speech((0.1, MAX_SECONDS + 5)))] == [MAX_SECONDS, 5]
    assert stretches_of(speech((0.0, 2.2 * MAX_SECONDS))) == []
    assert stretches_of(np.zeros(0, np.float32)) == []


def test_a_model_that_needs_the_whole_utterance_is_refused():
    whole = tiny().model_copy(update={"frontend": LogMelConfig(n_mels=20, channels=4, normalize="mean")})
    tokenizer = tokenizer_for(Config(), whole, WORDS)
    model = build_model(whole, tokenizer.size)
    said = r"normalize mean looks at the whole utterance.* expected kind logmel with style kaldi"
    with pytest.raises(ModelError, match=said):
        build(Config(), model, tokenizer).listener(model, 0.64)


def test_a_chunk_that_is_no_whole_number_of_coarse_frames_is_refused():
    task, model = example()
    with pytest.raises(ValueError, match=r"a chunk of 0\.5 s; expected a multiple of 0\.08 s"):
        task.listener(model, 0.5)

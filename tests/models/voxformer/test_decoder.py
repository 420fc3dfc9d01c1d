import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.models.voxformer import decoder as module
from auricle.models.voxformer.config import DecoderConfig
from auricle.models.voxformer.decoder import AttentionDecoder, sinusoids

WIDTH, MEMORY, V = 16, 12, 6
TOLERANCE = [(torch.float32, 1e-5), (torch.float64, 1e-10)]


def made(dtype=torch.float64, dropout=0.0):
    torch.manual_seed(1)
    config = DecoderConfig(layers=2, heads=2, feedforward_width=24, dropout=dropout)
    decoder = AttentionDecoder(config, WIDTH, MEMORY, V).to(dtype)
    return decoder.train() if dropout else decoder.eval()


def memory_of(lengths, dtype=torch.float64, filler=float("nan")):
    """(B, E, M) with rubbish in the padding, (B,)."""
    torch.manual_seed(2)
    memory = torch.full((len(lengths), max(lengths, default=0), MEMORY), filler, dtype=dtype)
    for row, length in enumerate(lengths):
        memory[row, :length] = torch.randn(length, MEMORY, dtype=dtype)
    return memory, torch.tensor(lengths, dtype=torch.long)


def tokens_of(utterances, length):
    """(B, U): the end symbol, then labels."""
    labels = torch.randint(V, (utterances, length - 1), generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.pad(labels, (1, 0), value=V)


def test_at_the_original_s_size_it_has_the_parameters_that_its_docstring_counts():
    decoder = AttentionDecoder(DecoderConfig(), 512, 512, 2000)
    assert sum(p.numel() for p in decoder.parameters()) == 23_033_856 == 23_036_928 + 2 * 512 - 4 * 1024


def test_what_enters_the_layers_has_unit_variance():
    decoder = AttentionDecoder(DecoderConfig(layers=1), 512, 512, 2000)
    assert (decoder.embedding.weight * decoder.scale).std().item() == pytest.approx(1.0, abs=0.01)


def test_a_token_sees_itself_and_those_before_it():
    decoder, (memory, lengths), tokens = made(), memory_of([5]), tokens_of(1, 6)
    before = decoder(tokens, memory, lengths)
    for place in range(1, 6):
        other = tokens.clone()
        other[0, place] = (tokens[0, place] + 1) % V
        changed = (decoder(other, memory, lengths) - before).abs().amax(-1)[0] > 1e-6  # (U+1,)
        assert changed.tolist() == [at >= place for at in range(6)]


def test_it_hears_every_frame_and_the_order_of_the_tokens():
    decoder, (memory, lengths) = made(), memory_of([4])
    before = decoder(tokens_of(1, 4), memory, lengths)
    for frame in range(4):
        other = memory.clone()
        other[0, frame] += 1
        assert (decoder(tokens_of(1, 4), other, lengths) - before).abs().amax() > 1e-4
    one, other = (decoder(torch.tensor([order]), memory, lengths) for order in ([V, 1, 0, 2], [V, 0, 1, 2]))
    assert (one - other)[0, 3].abs().amax() > 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCE)
def test_padding_changes_nothing(dtype, tolerance):
    decoder, sizes = made(dtype), [7, 3, 0, 1]
    memory, lengths = memory_of(sizes, dtype)
    tokens = tokens_of(4, 5)
    together = decoder(tokens, memory, lengths)
    assert together.isfinite().all()
    for row, size in enumerate(sizes):
        alone = decoder(tokens[row : row + 1, :3], memory[row : row + 1, :size], lengths[row : row + 1])
        torch.testing.assert_close(together[row : row + 1, :3], alone, atol=tolerance, rtol=0)


@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [3, 0]])
def test_nothing_passes_through_and_reaches_every_parameter(lengths):
    decoder, (memory, sizes) = made(), memory_of(lengths)
    logits = decoder(tokens_of(len(lengths), 4), memory, sizes)
    assert logits.shape == (len(lengths), 4, V + 1)
    (0 * logits.sum()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in decoder.parameters())


def test_dropout_is_drawn_in_training_alone():
    decoder, (memory, lengths), tokens = made(dropout=0.5), memory_of([4]), tokens_of(1, 5)
    assert not torch.equal(decoder(tokens, memory, lengths), decoder(tokens, memory, lengths))
    decoder.eval()
    assert torch.equal(decoder(tokens, memory, lengths), decoder(tokens, memory, lengths))


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCE)
@pytest.mark.parametrize("room", [1, 2, 32])
def test_steps_equal_teacher_forcing(monkeypatch, dtype, tolerance, room):
    monkeypatch.setattr(module, "FIRST_CAPACITY", room)
    decoder, (memory, lengths), tokens = made(dtype), memory_of([5, 0, 2], dtype), tokens_of(3, 9)
    cache = decoder.start(memory, lengths)
    stepped = torch.stack([decoder.step(tokens[:, place], cache) for place in range(9)], 1)
    torch.testing.assert_close(stepped, decoder(tokens, memory, lengths), atol=tolerance, rtol=0)


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4), beams=st.integers(1, 4), seed=st.integers(0, 99),
       data=st.data())
def test_however_the_beam_was_reordered_a_step_equals_teacher_forcing(lengths, beams, seed, data):
    decoder, (memory, sizes) = made(), memory_of(lengths)
    draw = torch.Generator().manual_seed(seed)
    cache = decoder.start(memory, sizes, beams)
    said = torch.empty(len(lengths), beams, 0, dtype=torch.long)
    for _ in range(6):
        newest = torch.randint(V + 1, (len(memory), beams), generator=draw)
        said = torch.cat([said, newest.unsqueeze(-1)], -1)  # (B, W, P)
        logits = decoder.step(newest, cache)
        expected = decoder(said.flatten(0, 1), memory.repeat_interleave(beams, 0), sizes.repeat_interleave(beams))
        torch.testing.assert_close(logits.flatten(0, 1), expected[:, -1], atol=1e-10, rtol=0)
        parents = torch.randint(beams, (len(memory), beams), generator=draw)
        cache.reorder(parents)
        said = said.gather(1, parents.unsqueeze(-1).expand_as(said))
        going = torch.tensor(data.draw(st.lists(st.sampled_from(range(len(memory))), unique=True, min_size=1)))
        cache.keep(going)
        memory, sizes, said = memory[going], sizes[going], said[going]


def test_flat_tokens_give_flat_logits():
    decoder, (memory, lengths) = made(), memory_of([3, 4])
    tokens = torch.tensor([[0, 1, 2], [3, 4, 5]])
    deep = decoder.step(tokens, decoder.start(memory, lengths, beams=3))
    flat = decoder.step(tokens.flatten(), decoder.start(memory, lengths, beams=3))
    assert deep.shape == (2, 3, V + 1)
    assert torch.equal(deep.flatten(0, 1), flat)


def test_a_search_over_no_utterances_takes_steps_too():
    decoder, (memory, lengths) = made(), memory_of([])
    cache = decoder.start(memory, lengths, beams=2)
    assert decoder.step(torch.empty(0, 2, dtype=torch.long), cache).shape == (0, 2, V + 1)


def test_frames_know_when_they_are():
    found = sinusoids(50, 8).double()
    for frame in (0, 1, 7, 49):
        for pair in range(4):
            angle = frame * 10_000 ** (-2 * pair / 8)
            assert found[frame, pair].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert found[frame, 4 + pair].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_the_same_frame_at_another_time_is_another_one():
    decoder = made(torch.float32)
    frame = torch.randn(1, 1, MEMORY)
    tokens = torch.tensor([[decoder.end, 1]])
    both = torch.cat([frame, torch.zeros_like(frame)], 1), torch.cat([torch.zeros_like(frame), frame], 1)
    first, second = (decoder(tokens, memory, torch.tensor([2])) for memory in both)
    assert not torch.allclose(first, second, atol=1e-4)

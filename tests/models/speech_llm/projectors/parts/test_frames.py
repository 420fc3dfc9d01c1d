import torch

from auricle.models.speech_llm.projectors.parts.frames import side_by_side, silenced, whole_groups


def test_frames_lie_side_by_side_in_order_and_zeros_fill_the_last_group():
    encoded = torch.arange(1.0, 13.0).view(2, 3, 2)
    together, tokens = side_by_side(encoded, torch.tensor([3, 1]), 2)
    assert together.tolist() == [[[1, 2, 3, 4], [5, 6, 0, 0]], [[7, 8, 0, 0], [0, 0, 0, 0]]]
    assert tokens.tolist() == [2, 1]


def test_padding_becomes_silent_whatever_it_holds():
    silent, lengths = silenced(torch.full((2, 3, 1), float("nan")), torch.tensor([0, 0]))
    assert silent.tolist() == [[[0], [0], [0]]] * 2
    assert lengths.tolist() == [0, 0]


def test_a_silent_utterance_stands_in_for_none():
    for shape, expected in {(0, 0): (1, 1), (0, 5): (1, 5), (2, 0): (2, 1)}.items():
        silent, lengths = silenced(torch.zeros(*shape, 4), torch.zeros(shape[0], dtype=torch.long))
        assert silent.shape == (*expected, 4)
        assert lengths.tolist() == [0] * expected[0]


def test_whole_groups_take_any_type():
    assert whole_groups(torch.ones(1, 3, 1, dtype=torch.bool), 2).sum(2).tolist() == [[[2], [1]]]

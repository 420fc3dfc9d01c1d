import torch

from auricle.models.parts.masks import attention_mask, valid_frames


def test_valid_is_true_up_to_each_length():
    assert valid_frames(torch.tensor([2, 0, 3]), 3).tolist() == [[True, True, False], [False] * 3, [True] * 3]


def test_an_utterance_without_frames_may_look_at_one_key():
    mask = attention_mask(torch.tensor([2, 0]), 3)
    assert mask.shape == (2, 1, 1, 3)
    assert mask[:, 0, 0].tolist() == [[True, True, False], [True, False, False]]

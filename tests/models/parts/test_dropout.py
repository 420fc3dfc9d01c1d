import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.models.parts.dropout import Dropout


def test_nothing_is_dropped_in_eval_mode_or_at_probability_zero():
    x = torch.randn(3, 5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_is_p_and_the_mean_stays(p):
    torch.manual_seed(0)
    y = Dropout(p)(torch.ones(400, 401))
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.01)
    assert y.mean().item() == pytest.approx(1.0, abs=0.03)


@settings(deadline=None, max_examples=40)
@given(size=st.integers(0, 40))
def test_every_number_of_elements_and_every_type_works(size):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        y = Dropout(0.5)(torch.ones(size, dtype=dtype))
        assert y.shape == (size,)
        assert y.dtype == dtype
        assert set(y.tolist()) <= {0.0, 2.0}


def test_the_seed_decides_and_the_gradient_takes_the_same_way():
    x = torch.randn(7, 9, requires_grad=True)
    torch.manual_seed(3)
    first = Dropout(0.3)(x)
    torch.manual_seed(3)
    assert torch.equal(first, Dropout(0.3)(x))
    first.sum().backward()
    assert torch.equal(x.grad == 0, first == 0)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(80_000)) == 0).view(-1, 8).float()
    correlations = torch.corrcoef(dropped.T) - torch.eye(8)
    assert correlations.abs().max() < 0.05

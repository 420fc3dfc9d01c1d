import math

import pytest
import torch

from auricle.models.voxformer.encoders.parts.swoosh import swoosh_l, swoosh_r

POINTS = torch.linspace(-20, 20, 401, dtype=torch.float64)


@pytest.mark.parametrize(("activation", "shift", "offset"), [(swoosh_r, 1, 0.313261687), (swoosh_l, 4, 0.035)])
def test_a_swoosh_is_the_papers_formula(activation, shift, offset):
    expected = [math.log(1 + math.exp(x - shift)) - 0.08 * x - offset for x in POINTS.tolist()]
    torch.testing.assert_close(activation(POINTS), torch.tensor(expected, dtype=torch.float64), atol=1e-7, rtol=0)
    x = POINTS.clone().requires_grad_()
    activation(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.sigmoid(POINTS - shift) - 0.08, atol=1e-7, rtol=0)


def test_only_the_right_one_goes_through_the_origin():
    zero = torch.zeros((), dtype=torch.float64)
    assert abs(swoosh_r(zero)) < 1e-9
    assert swoosh_l(zero) == pytest.approx(math.log(1 + math.exp(-4)) - 0.035)


def test_the_input_stays_as_it_was():
    x = torch.randn(5)
    before = x.clone()
    swoosh_l(x), swoosh_r(x)
    assert torch.equal(x, before)

import torch

from auricle.models.voxformer.feedforward import FeedForward


def test_it_is_the_formula():
    torch.manual_seed(0)
    module = FeedForward(4, 6, dropout=0.5).double().eval()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    first, second = module.project_in.weight[:6], module.project_in.weight[6:]
    gate = normed @ first.T
    expected = (gate * gate.sigmoid() * (normed @ second.T)) @ module.project_out.weight.T
    torch.testing.assert_close(module(x), expected)

import pytest
import torch
from torch.nn import functional as F

from auricle.core.errors import ModelError
from auricle.models.parts.components import count
from auricle.models.voxformer.chunks import Chunks, Memory
from auricle.models.voxformer.config import WaveConfig
from auricle.models.voxformer.frontends.wave import Adapter, build
from tests.models.parts.encoders.small import GROUP, STABLE, batch

WHOLE = Chunks()


def front_end(kind="wavlm", keys=GROUP, **changes):
    torch.manual_seed(0)
    return build(WaveConfig(encoder={"kind": kind, "config": keys, **changes}, dropout=0.0), 6).eval()


def noise(*samples):
    return [torch.randn(one, generator=torch.Generator().manual_seed(one)) for one in samples]


def test_the_adapter_has_the_size_of_the_original():
    adapter = Adapter(12, 768, 512, 0.1)
    assert count(adapter.parameters()) == 657_920 + 12


def test_the_adapter_projects_a_weighted_sum_that_begins_as_the_mean():
    torch.manual_seed(0)
    adapter, layers = Adapter(3, 8, 6, 0.0).double(), list(torch.randn(3, 2, 5, 8).double())
    assert adapter.layer_weights.softmax(0).tolist() == pytest.approx([1 / 3] * 3)
    torch.nn.init.normal_(adapter.layer_weights)
    mixed = torch.einsum("l,lbem->bem", adapter.layer_weights.softmax(0), torch.stack(layers))
    expected = adapter.project_out(F.gelu(adapter.project_in(F.layer_norm(mixed, (8,)))))
    torch.testing.assert_close(adapter(layers), expected)


def test_every_layer_is_heard():
    module = front_end()
    features, lengths = batch(module.encoder, [one.numpy() for one in noise(3000)])
    before, _ = module(features, lengths, WHOLE)
    for layer in range(3):
        with torch.no_grad():
            module.adapter.layer_weights.zero_()[layer] = 50.0
        after, _ = module(features, lengths, WHOLE)
        heard, _ = module.encoder.all_layers(features, lengths)
        torch.testing.assert_close(after, module.adapter([heard[layer]] * 3))
        assert not torch.allclose(after, before, atol=1e-4)


@pytest.mark.parametrize("kind", ["wavlm", "hubert", "wav2vec2"])
@pytest.mark.parametrize("keys", [GROUP, STABLE], ids=["group", "stable"])
def test_padding_changes_nothing(kind, keys):
    module = front_end(kind, keys).double()
    clips = [one.numpy() for one in noise(5000, 1300, 30)]
    together, lengths = module(*batch(module.encoder, clips, torch.float64, float("nan"), extra=3), WHOLE)
    assert lengths.tolist() == [15, 3, 0]
    for row, (clip, length) in enumerate(zip(clips, lengths, strict=True)):
        alone, _ = module(*batch(module.encoder, [clip], torch.float64), WHOLE)
        torch.testing.assert_close(together[row, :length], alone[0, :length], atol=1e-10, rtol=0)


def test_a_frozen_encoder_leaves_no_graph_and_one_with_a_learning_top_only_that():
    module = front_end().train()
    features, lengths = batch(module.encoder, [one.numpy() for one in noise(3000)])
    module.encoder.requires_grad_(False)
    heard, _ = module.encoder.all_layers(features, lengths)
    assert not any(layer.requires_grad for layer in heard)
    module(features, lengths, WHOLE)[0].square().sum().backward()
    assert all(p.grad is not None for p in module.adapter.parameters())
    module.encoder.layers[-1].requires_grad_(True)
    heard, _ = module.encoder.all_layers(features, lengths)
    assert [layer.requires_grad for layer in heard] == [False, False, True]


def test_an_encoder_in_half_precision_is_heard_in_single():
    exact, rough = front_end(), front_end()
    rough.encoder.bfloat16()
    inputs = batch(exact.encoder, [one.numpy() for one in noise(3000)])
    with torch.no_grad():
        found, expected = rough(*inputs, WHOLE)[0], exact(*inputs, WHOLE)[0]
    assert found.dtype == torch.float32
    assert (found - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.parametrize("chunks", [Chunks(8), Chunks(memory=Memory())], ids=["chunks", "stream"])
def test_it_refuses_to_hear_less_than_the_utterance(chunks):
    module = front_end()
    with pytest.raises(ModelError, match="attends to the whole utterance"):
        module(*batch(module.encoder, [one.numpy() for one in noise(3000)]), chunks)


def test_an_encoder_without_layers_to_weigh_is_refused():
    kind = "auricle.models.parts.encoders.conformer"
    with pytest.raises(ModelError, match=f"kind {kind} has no layers to weigh"):
        build(WaveConfig(encoder={"kind": kind, "config": {"width": 16, "layers": 1, "heads": 2}}), 6)

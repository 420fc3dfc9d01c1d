import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from auricle.train.images import TYPES, Image

SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=6)


def made(shapes, kinds, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layers.{number}.weight": torch.randn(shape, generator=generator).mul(100).to(kind)
        for number, (shape, kind) in enumerate(zip(shapes, kinds, strict=False))
    }


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.lists(st.sampled_from(list(TYPES)), min_size=6, max_size=6), st.integers(0, 9))
def test_an_image_is_the_file_that_the_library_reads(shapes, kinds, seed):
    tensors = made(shapes, kinds, seed)
    image = Image(tensors)
    image.fill(tensors)
    found = load(bytes(image.buffer.memory))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)
    image.close()


def test_an_image_holds_the_values_of_the_last_filling():
    weight = torch.arange(6.0).reshape(2, 3)
    image = Image({"weight": weight})
    image.fill({"weight": weight})
    weight += 1
    assert torch.equal(load(bytes(image.buffer.memory))["weight"], weight - 1)
    image.fill({"weight": weight.T.contiguous().T})  # laid out differently in memory
    assert torch.equal(load(bytes(image.buffer.memory))["weight"], weight)
    image.close()

"""What users call a GPU, among the providers' names."""

import pytest

from auricle.remote.providers import ProviderError
from auricle.remote.providers.parts.gpus import named

NAMES = ["NVIDIA GeForce RTX 4090", "RTX 4090D", "NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA L40",
         "NVIDIA L40S", "NVIDIA RTX A6000", "RTX 6000Ada", "NVIDIA RTX 6000 Ada Generation", "NVIDIA A100 80GB PCIe",
         "NVIDIA A100-SXM4-80GB", "A100 (40 GB SXM4)", "NVIDIA A10", "NVIDIA GeForce RTX 4080 SUPER"]


@pytest.mark.parametrize(("gpu", "found"), [
    ("4090", ["NVIDIA GeForce RTX 4090"]), ("rtx 4090", ["NVIDIA GeForce RTX 4090"]),
    ("RTX_4090", ["NVIDIA GeForce RTX 4090"]), ("3090", ["NVIDIA GeForce RTX 3090"]),
    ("3090 ti", ["NVIDIA GeForce RTX 3090 Ti"]), ("l40", ["NVIDIA L40"]), ("L40S", ["NVIDIA L40S"]),
    ("a6000", ["NVIDIA RTX A6000"]), ("RTX A6000", ["NVIDIA RTX A6000"]), ("a10", ["NVIDIA A10"]),
    ("rtx6000ada", ["RTX 6000Ada", "NVIDIA RTX 6000 Ada Generation"]), ("4080", ["NVIDIA GeForce RTX 4080 SUPER"]),
    ("a100", ["NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-80GB", "A100 (40 GB SXM4)"]),
    ("A100 SXM4", ["NVIDIA A100-SXM4-80GB", "A100 (40 GB SXM4)"]), ("a100 80gb pcie", ["NVIDIA A100 80GB PCIe"])])
def test_users_words(gpu, found):
    assert named(gpu, {name: name for name in NAMES}, "X") == found


@pytest.mark.parametrize("gpu", ["4099", "", "??", "geforce banana"])
def test_an_unknown_one_is_told_with_the_nearest(gpu):
    with pytest.raises(ProviderError, match=f"X: has no GPU '{gpu}'".replace("?", r"\?")) as raised:
        named(gpu, {name: name for name in NAMES}, "X")
    assert gpu != "4099" or "RTX 4090" in str(raised.value).partition("nearest there: ")[2].split(", ")[0]


def test_none_at_all():
    with pytest.raises(ProviderError, match="nearest there: none at all"):
        named("4090", {}, "X")

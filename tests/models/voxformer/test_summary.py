import pytest

from auricle.models.parts.components import count, resolve
from auricle.models.voxformer.model import build
from tests.models.parts.encoders.small import GROUP
from tests.models.voxformer.test_model import FRONT_ENDS, tiny

DEEP = {"kind": "wavlm", "config": {**GROUP, "num_hidden_layers": 12}}


def built(**frontend):
    return build(tiny(frontend={**FRONT_ENDS["wave"], "encoder": DEEP, **frontend}), 9)


def training(model, *names):
    """The parameters of these components, the only ones that train now."""
    model.requires_grad_(False)
    chosen = [parameter for group in resolve(model, names).values() for _, parameter in group]
    for parameter in chosen:
        parameter.requires_grad_(True)
    return count(chosen)


def said(model):
    return [line.strip() for line in model.summary()]


def test_a_stage_that_trains_the_top_layers_names_them_and_counts_what_trains():
    model = built()
    training(model, "frontend.top(3)", "adapter", "encoder", "decoder", "ctc_head")
    sizes = {name: count(module.parameters()) for name, module in model.components().items()}
    learning = sizes["adapter"] + sum(count(layer.parameters()) for layer in model.front_end.encoder.layers[9:])
    frozen = sizes["frontend"] + sizes["adapter"] - learning
    assert frozen > 0
    assert said(model) == [
        "VoxFormer Model Summary:",
        f"Frontend (WavLM): {sizes['frontend'] + sizes['adapter']:,} ({learning:,} trainable)",
        f"Encoder: {sizes['encoder']:,}", f"Decoder: {sizes['decoder']:,}", f"CTC Head: {sizes['ctc_head']:,}",
        f"Total: {count(model.parameters()):,} ({count(model.parameters()) - frozen:,} trainable)",
        "Unfroze WavLM layers: [9, 10, 11]"]


def test_what_does_not_train_is_said_plainly():
    model = built()
    learning = training(model, "adapter", "ctc_head")
    lines = said(model)
    assert lines[-1] == "All 12 WavLM layers are frozen"
    assert lines[3] == f"Decoder: {count(model.decoder.parameters()):,} (0 trainable)"
    assert lines[5] == f"Total: {count(model.parameters()):,} ({learning:,} trainable)"


def test_a_part_of_a_layer_that_trains_makes_it_one_that_does():
    model = built()
    training(model, "frontend.layers.4.final_layer_norm", "ctc_head")
    assert said(model)[-1] == "Unfroze WavLM layers: [4]"


@pytest.mark.parametrize(("frontend", "title"), [
    (FRONT_ENDS["logmel"], "log-mel"), (FRONT_ENDS["features"], "features"),
    ({**FRONT_ENDS["wave"], "encoder": {"kind": "hubert", "config": GROUP}}, "HuBERT")])
def test_a_front_end_has_its_name(frontend, title):
    assert said(build(tiny(frontend=frontend), 9))[1].startswith(f"Frontend ({title}): ")

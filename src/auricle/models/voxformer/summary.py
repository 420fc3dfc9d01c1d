"""How large a VoxFormer is and what of it trains, in the words of the original, counted from the parameters.

    VoxFormer Model Summary:
      Frontend (WavLM): 95,039,100 (21,923,144 trainable)
      Encoder: 85,685,248
      …
      Total: 204,784,717 (131,668,761 trainable)
    Unfroze WavLM layers: [9, 10, 11]
"""

from collections.abc import Iterable, Mapping

from torch import nn

from auricle.models.parts.components import count
from auricle.models.voxformer.config import Config

TITLES = {"wavlm": "WavLM", "hubert": "HuBERT", "wav2vec2": "wav2vec 2.0", "logmel": "log-mel"}


def summary(config: Config, components: Mapping[str, nn.Module]) -> list[str]:
    """Its lines. Where no number of trainable parameters stands, all are; the adapter counts with the front end."""
    kind = config.frontend.encoder.kind if config.frontend.kind == "wave" else config.frontend.kind
    title = TITLES.get(kind, kind)
    hearing = [components[name] for name in ("frontend", "adapter") if name in components]
    parts = {f"Frontend ({title})": hearing, "Encoder": [components["encoder"]], "Decoder": [components["decoder"]],
             "CTC Head": [components["ctc_head"]], "Total": components.values()}
    lines = ["VoxFormer Model Summary:", *(f"  {name}: {_counted(modules)}" for name, modules in parts.items())]
    return [*lines, _unfrozen(title, components["frontend"])] if "frontend" in components else lines


def _counted(modules: Iterable[nn.Module]) -> str:
    parameters = [parameter for module in modules for parameter in module.parameters()]
    total, learning = count(parameters), count(one for one in parameters if one.requires_grad)
    return f"{total:,}" if learning == total else f"{total:,} ({learning:,} trainable)"


def _unfrozen(title: str, encoder: nn.Module) -> str:
    learning = [number for number, layer in enumerate(encoder.layers)
                if any(parameter.requires_grad for parameter in layer.parameters())]
    return f"Unfroze {title} layers: {learning}" if learning else f"All {len(encoder.layers)} {title} layers are frozen"

"""Whether a model can hear what a data set holds: audio, or features that were computed before.

A front end that takes features says so by `takes = "features"`, its `width` and its `sample_rate`, the frames a second
(models/parts/precomputed.py); any other takes audio.
"""

from collections.abc import Iterable

from torch import nn

from auricle.core.config import AugmentConfig
from auricle.core.errors import ConfigError, UsageError
from auricle.data.features import Layout


def takes(frontend: nn.Module) -> Layout | None:
    """The features that a front end takes; None is audio."""
    if getattr(frontend, "takes", "audio") == "audio":
        return None
    return Layout(frontend.width, float(frontend.sample_rate))


def refuse_other_media(frontend: nn.Module, layouts: Iterable[Layout | None], where: str) -> None:
    """Raises ConfigError where a data set (`Manifest.layouts`) holds anything else than the front end takes."""
    wanted = takes(frontend)
    for found in layouts:
        if found != wanted:
            raise ConfigError(f"{where}: holds {_named(found)}, and this model takes {_named(wanted)}; expected the "
                              "same. Choose another data set, or correct model.frontend")


def refuse_changes_of_audio(frontend: nn.Module, augment: AugmentConfig) -> None:
    """Raises ConfigError for augmentation that features cannot take; speeds and masks they can."""
    for name in ("gain_db", "noise"):
        if getattr(augment, name) is not None and takes(frontend):
            raise ConfigError(f"data.augment.{name}: changes audio, and this model takes {_named(takes(frontend))}; "
                              "set it to null, or augment by speeds and spec_augment")


def refuse_files_of_audio(frontend: nn.Module) -> None:
    """Raises UsageError where a model that takes features is to hear a recording."""
    if wanted := takes(frontend):
        raise UsageError(f"this model takes {_named(wanted)}, and no audio; expected a model with an audio front end. "
                         "`auricle eval` lets it hear a manifest of features")


def _named(layout: Layout | None) -> str:
    return f"features of {layout.width} values, {layout.frame_rate:g} a second" if layout else "audio"

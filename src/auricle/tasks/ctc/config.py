"""How a CTC task makes labels and decodes."""

from typing import Literal

from auricle.core.config import Positive
from auricle.tasks.parts.label_config import LabelConfig, TokenizerConfig

__all__ = ["Config", "TokenizerConfig"]


class Config(LabelConfig):
    """Connectionist temporal classification (Graves et al. 2006)."""

    kind: Literal["ctc"] = "ctc"
    decoder: Literal["greedy", "beam"] = "greedy"
    """The default; the other one can be asked for by name."""
    beam_size: Positive = 16
    """Prefixes that the beam keeps a frame."""

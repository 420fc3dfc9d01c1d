"""From the block of a projector to its module."""

from auricle.core.folder import find
from auricle.models.speech_llm.projector_configs import ProjectorConfig
from auricle.models.speech_llm.projectors import Projector

ROOM = "models.speech_llm.projectors"


def build(config: ProjectorConfig, width_in: int, width_out: int) -> Projector:
    """With fresh weights; `width_in` of an encoder's frame, `width_out` of the language model.

    Raises ConfigError where the config does not fit the widths.
    """
    return find(ROOM, config.kind).build(config, width_in, width_out)

"""Log-mel features at 100 Hz, halved."""

from auricle.models.parts.logmel import LogMel
from auricle.models.voxformer.config import LogMelConfig
from auricle.models.voxformer.frontends.parts.convolved import Convolved

FACTOR = 2


def build(config: LogMelConfig, width: int) -> Convolved:
    """With fresh weights."""
    frontend = LogMel(config.sample_rate, config.n_mels, config.style, config.normalize)
    return Convolved(frontend, width, FACTOR, config.channels)

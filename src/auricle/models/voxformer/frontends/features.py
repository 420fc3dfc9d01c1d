"""Features that the corpus brings."""

from auricle.models.parts.precomputed import PrecomputedFeatures
from auricle.models.voxformer.config import FeaturesConfig
from auricle.models.voxformer.frontends.parts.convolved import Convolved


def build(config: FeaturesConfig, width: int) -> Convolved:
    """With fresh weights."""
    frontend = PrecomputedFeatures(config.width, config.frame_rate, config.deltas, config.normalize)
    return Convolved(frontend, width, config.factor, config.channels)

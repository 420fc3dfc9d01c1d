"""From a configuration to an encoder, and back."""

from auricle.core.folder import find
from auricle.models.parts.encoders import Encoder
from auricle.models.parts.encoders.parts.config import ROOM, EncoderConfig
from auricle.models.parts.encoders.parts.waveform import Waveform


def build(config: EncoderConfig) -> Encoder:
    """In eval mode, with the weights of its checkpoint or with fresh ones. Raises ConfigError and ModelError."""
    return find(ROOM, config.kind).build(config).eval()


def standalone(config: EncoderConfig, encoder: Encoder) -> EncoderConfig:
    """What builds the same encoder without its checkpoint: for a model folder that holds the weights itself."""
    normalize = encoder.frontend.normalize if isinstance(encoder.frontend, Waveform) else None
    return config.model_copy(update={"pretrained": None, "revision": None, "config": encoder.configuration,
                                     "normalize": normalize})

"""wav2vec 2.0 (Baevski et al. 2020): also its checkpoints that were fine-tuned with CTC, without their head."""

from transformers import Wav2Vec2Model

from auricle.models.parts.encoders.parts.config import EncoderConfig
from auricle.models.parts.encoders.parts.wave import WaveEncoder, build_wave


def build(config: EncoderConfig) -> WaveEncoder:
    return build_wave(config, Wav2Vec2Model)

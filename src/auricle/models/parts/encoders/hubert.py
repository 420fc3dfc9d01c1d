"""HuBERT (Hsu et al. 2021): also its checkpoints that were fine-tuned with CTC, without their head."""

from transformers import HubertModel

from auricle.models.parts.encoders.parts.config import EncoderConfig
from auricle.models.parts.encoders.parts.wave import WaveEncoder, build_wave


def build(config: EncoderConfig) -> WaveEncoder:
    return build_wave(config, HubertModel)

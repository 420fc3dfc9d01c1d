"""Auricle's models for transformers: importing this page registers them with its auto classes.

    import auricle.inference.auto
    from transformers import AutoModel
    model = AutoModel.from_pretrained("outputs/tiny_journey")      # a run, checkpoint or exported folder, or a hub id
    model.transcribe(samples, sampling_rate=16_000)

# T samples
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSpeechSeq2Seq, PreTrainedConfig, PreTrainedModel

from auricle.data.audio import resample
from auricle.data.loader import Utterance
from auricle.inference.load import folder_of
from auricle.models.parts.folder import MODEL_TYPE
from auricle.tasks.parts.assembly import Assembly, load
from auricle.tasks.parts.media import refuse_files_of_audio


class AuricleConfig(PreTrainedConfig):
    """config.json of a model folder, as it stands there."""

    model_type = MODEL_TYPE


class AuricleModel(PreTrainedModel):
    """A model with its task and tokenizer."""

    config_class = AuricleConfig

    def __init__(self, config: AuricleConfig, assembly: Assembly) -> None:
        super().__init__(config)
        self.model, self.assembly = assembly.model, assembly

    @classmethod
    def from_pretrained(cls, name: str | Path, *_: Any, config: AuricleConfig | None = None, **__: Any) -> Self:
        """Reads a model folder, verified as everywhere in Auricle. Raises ModelError."""
        folder = folder_of(str(name))
        return cls(config or AuricleConfig.from_pretrained(folder), load(folder)).eval()

    def save_pretrained(self, folder: str | Path, *_: Any, **__: Any) -> None:
        """Writes a model folder that needs no other one."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.assembly.save(Path(folder))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """That of the model inside."""
        return self.model(*inputs, **named)

    @torch.inference_mode()
    def transcribe(self, audio: np.ndarray, sampling_rate: int, decoder: str = "") -> str:
        """(T,) float samples in [-1, 1] → text; a clip as long as the model takes one (`auricle transcribe` cuts)."""
        task = self.assembly.task
        refuse_files_of_audio(task.frontend)
        rate = task.frontend.sample_rate
        samples = resample(np.asarray(audio, np.float32), sampling_rate, rate)
        one = Utterance(id="clip", audio=samples, sample_rate=rate, text="", seconds=len(samples) / rate)
        return task.predict(self.model, task.collate([one]).to(self.device), decoder)[0].text


AutoConfig.register(MODEL_TYPE, AuricleConfig)
AutoModel.register(AuricleConfig, AuricleModel)
AutoModelForSpeechSeq2Seq.register(AuricleConfig, AuricleModel)

"""A tiny experiment on digits: seconds of training, every part real."""

from pathlib import Path

from auricle.core.config import ExperimentConfig
from auricle.core.decode import decode
from auricle.core.events import Event
from auricle.train.run_folder import Start
from auricle.train.start import Outcome, train
from tests.speech import digits_manifest

MODEL = {
    "kind": "conformer",
    "width": 16,
    "layers": 1,
    "heads": 2,
    "feedforward_factor": 2,
    "subsampling_channels": 4,
    "subsampling": 2,
    "dropout": 0.1,
    "frontend": {"n_mels": 20},
}


def tiny(
    folder: Path, *, manifest: Path | None = None, data: dict | None = None, stages: dict | None = None, **training
) -> ExperimentConfig:
    """Digits of two speakers, 12 steps; `manifest` is where they are or will be prepared."""
    manifest = manifest or folder / "manifest"
    if not manifest.exists():
        digits_manifest(manifest.parent)
    settings = {
        "output_dir": str(folder / "run"),
        "max_steps": 12,
        "batch_seconds": 6.0,
        "learning_rate": 0.003,
        "gradient_accumulation_steps": 2,
        "dataloader_num_workers": 0,
        "device": "cpu",
        "logging_steps": 1,
    }
    return decode(
        {
            "model": MODEL,
            "task": {"kind": "ctc"},
            "stages": stages or {},
            "data": {"datasets": {"digits": {"manifest": str(manifest), "eval_split": "test"}}, **(data or {})},
            "training": {**settings, **training},
        }
    )


def run(config: ExperimentConfig, **options) -> tuple[Outcome, list[Event]]:
    """Trains, and returns the outcome with the events of this start."""
    events: list[Event] = []
    return train(config, Start(), sinks=[events.append], **options), events


def losses(events: list[Event]) -> list[tuple[int, float]]:
    return [(event.step, event.values["loss"]) for event in events if event.kind == "train"]

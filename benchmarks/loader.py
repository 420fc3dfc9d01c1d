"""Audio hours that two workers decode, augment and collate a second, and where a worker's time goes."""

import tempfile
import time
from pathlib import Path

import numpy as np

from auricle.core.config import AugmentConfig, NoiseConfig, SpecAugmentConfig
from auricle.data.audio import read_audio
from auricle.data.augment import Augment, FeatureMasks
from auricle.data.loader import Rows, TrainingSet, batches
from auricle.data.plan import Budget, micro_batches
from auricle.data.prepare import prepare
from auricle.data.sources.synth import Config as Synth
from auricle.models.conformer.config import Config as Conformer
from auricle.tasks.ctc.config import Config as Ctc
from auricle.tasks.parts.assembly import assemble, tokenizer_for
from benchmarks.results import Figure, store

UTTERANCES = 1200


def throughput(data: TrainingSet, workers: int) -> float:
    """Audio seconds a second over one epoch, workers warm."""
    stream = batches(data, micro_batches(data.plan, (0, 0), 0, 1), workers)
    for _ in range(8):
        next(stream)
    began, seconds = time.perf_counter(), 0.0
    for _ in range(data.plan(0).steps):
        seconds += next(stream).seconds
    return seconds / (time.perf_counter() - began)


def shares(augment: Augment, frontend, rows: Rows) -> dict[str, float]:
    """Seconds of one process by what they are spent on, over the first 300 utterances."""
    spent = dict.fromkeys(("read", "augment", "features", "masks"), 0.0)
    for number in range(300):
        row, clock = rows[number], time.perf_counter
        began = clock()
        audio = read_audio(row.audio, 16_000)
        read = clock()
        rng = augment.generator(0, 0, row.id)
        audio = augment.audio(audio, float(augment.speeds[number % 3]), rng)
        augmented = clock()
        features = frontend(audio)
        computed = clock()
        FeatureMasks(augment.config.spec_augment, rng)(features.numpy())
        for name, start, stop in (
            ("read", began, read),
            ("augment", read, augmented),
            ("features", augmented, computed),
            ("masks", computed, clock()),
        ):
            spent[name] += stop - start
    return spent


def run() -> None:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        manifest = prepare(
            Synth(utterances=UTTERANCES, dev_utterances=0, test_utterances=0, dev_voices=0, test_voices=0),
            Path(folder) / "data",
        )
        noise = Path(folder) / "noise"
        noise.mkdir()
        _write_noise(noise / "white.wav")
        rows = Rows([manifest])
        config = AugmentConfig(
            speeds=[0.9, 1.0, 1.1],
            gain_db=(-6.0, 6.0),
            noise=NoiseConfig(folder=str(noise)),
            spec_augment=SpecAugmentConfig(),
        )
        assembly = assemble(Conformer(), Ctc(), tokenizer_for(Ctc(), Conformer(), manifest.texts))
        augment = Augment(config, 1, 16_000)
        data = TrainingSet(
            rows,
            collate=assembly.task.collate,
            sample_rate=16_000,
            budget=Budget(seconds=60.0),
            seed=1,
            augment=augment,
        )
        plain = TrainingSet(
            rows, collate=assembly.task.collate, sample_rate=16_000, budget=Budget(seconds=60.0), seed=1
        )
        rate, bare = throughput(data, 2), throughput(plain, 2)
        spent = shares(augment, assembly.task.frontend, rows)
    total = sum(spent.values())
    where = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in spent.items())
    store(
        "loader",
        "Loader",
        [
            Figure(
                what="16 kHz wav read, augmented (speed, gain, noise, SpecAugment), made log-mel, collated; 2 workers",
                measured=f"{rate / 3600:.2f} h of audio a second ({rate:,.0f} × real time)",
                against=f"without augmentation: {bare / 3600:.2f} h a second",
                note=f"a worker's time: {where}",
            )
        ],
    )


def _write_noise(path: Path) -> None:
    import soundfile

    soundfile.write(path, np.random.default_rng(0).standard_normal(16_000 * 20).astype(np.float32) * 0.05, 16_000)

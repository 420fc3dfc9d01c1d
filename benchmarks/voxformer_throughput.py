"""How fast VoxFormer trains at the original's shapes, with random weights: WavLM-base frozen, the encoder as it was
coded (85.7 M) and one of the size that its documents give (25 M), four decoder layers.

Clips of noise about as long as those of LibriSpeech's train-clean-100, where most have 12 to 16 s. The evaluation is
counted once an epoch of that corpus, over dev-clean at the speed measured, within the preset's time box.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch

from auricle.core.compose import compose
from auricle.core.decode import decode
from auricle.core.events import read
from auricle.data.grammar import grammar
from auricle.train.run_folder import Start
from auricle.train.start import train
from benchmarks.results import Figure, store

RATE = 16_000
WAVLM_BASE = "{pretrained: null, config: {hidden_size: 768, num_hidden_layers: 12}}"  # and transformers' defaults
SEED = "the seed: 377 without evaluation, 250 with it, on an RTX 4090"


def make_corpus(folder: Path, clips: int) -> Path:
    """A JSONL file; seconds as in train-clean-100, where most clips have 12 to 16."""
    rng, sentences, rows = np.random.default_rng(1), grammar("game_commands"), []
    for number, seconds in enumerate(np.clip(rng.normal(14.3, 2.5, clips), 2.0, 16.5)):
        path, text = folder / f"{number:04d}.wav", ""
        soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * RATE)).astype(np.float32), RATE)
        while len(text) < 14 * seconds:
            text = f"{text} {sentences.sentence('benchmark', number, len(text))}".strip()
        rows.append({"audio": str(path), "text": text})
    dev = max(8, clips // 20)
    for name, part in (("train", rows[dev:]), ("dev", rows[:dev])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def measured(corpus: Path, model: str, steps: int, accumulation: int) -> tuple[float, float, float, float, int]:
    """(audio hours an hour without the first step and evaluation, with it, padding %, data wait %, parameters)"""
    files = f"{{train: {corpus}/train.jsonl, dev: {corpus}/dev.jsonl}}"
    with tempfile.TemporaryDirectory() as folder:
        train(decode(compose([
            f"model={model}", f"model.frontend.encoder={WAVLM_BASE}", "training=voxformer",
            "data=default", "~data.datasets.commands", f"data.prepared_dir={folder}/data",
            f"data.datasets.noise={{source: {{kind: jsonl, files: {files}}}}}", "task.max_new_tokens=60",
            "task.tokenizer={kind: sentencepiece, vocabulary_size: 200}",
            "training.trainable=[adapter, encoder, decoder, ctc_head]", "training.num_train_epochs=null",
            f"training.max_steps={steps + 1}", "training.logging_steps=1", "training.eval_steps=null",
            f"training.gradient_accumulation_steps={accumulation}", "training.save_steps=null",
            "training.save_minutes=null", "training.dataloader_num_workers=2", f"training.output_dir={folder}/run",
        ])), Start(experiment="", command="", config_yaml=""))
        events = list(read(Path(folder) / "run" / "events.jsonl"))
    rows = [event.values for event in events if event.kind == "train"][1:]
    evaluation = next(event.values for event in events if event.kind == "eval")
    parameters = next(event.values["parameters"] for event in events if event.kind == "stage")
    rate = len(rows) / sum(1 / row["audio_hours_per_hour"] for row in rows)
    padding, wait = (float(np.mean([row[name] for row in rows])) for name in ("padding_percent", "data_wait_percent"))
    eval_rate = evaluation["audio_seconds"] / max(evaluation["seconds"], 1e-9)  # seconds of dev a second
    epoch, dev = 100.6, 5.4  # hours of train-clean-100 and of dev-clean
    box = 90 / 3600
    with_evaluation = epoch / (epoch / rate + min(box, dev / eval_rate))
    return rate, with_evaluation, padding, wait, parameters


def run() -> None:
    gpu = torch.cuda.is_available()
    steps, accumulation, clips = (30, 4, 400) if gpu else (2, 1, 40)
    what = torch.cuda.get_device_name() if gpu else "CPU, 8 utterances a step"
    figures = []
    with tempfile.TemporaryDirectory() as name:
        corpus = make_corpus(Path(name), clips)
        for model in ("voxformer", "voxformer_25m"):
            rate, whole, padding, wait, parameters = measured(corpus, model, steps, accumulation)
            figures.append(Figure(
                what=f"audio hours an hour, `model={model}` ({parameters / 1e6:.1f} M), WavLM frozen, {what}",
                measured=f"{rate:.1f} without evaluation, {whole:.1f} with it", against=SEED if gpu else f"({SEED})",
                note=f"padding {padding:.1f} %, waiting for data {wait:.1f} %, evaluation {1 - whole / rate:.1%} (at "
                     "most 90 s an epoch, decoder joint, at the speed measured)"))
            store("voxformer_throughput", "VoxFormer's throughput at the original's shapes", figures)

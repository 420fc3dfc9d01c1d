"""A speech language model against the loop that users write with transformers' Trainer: the same model, data and step.

The baseline is written as it is in the scripts that people share: fixed batches in random order, audio padded to 30
seconds, every audio token of the padding read by the language model, logits for all positions. Durations are
log-normal, median 6 s, σ 0.6. On a GPU it is measured at real sizes too, with random weights.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from auricle.core.compose import compose
from auricle.core.decode import decode
from auricle.core.events import read
from auricle.data.grammar import grammar
from auricle.models.speech_llm.language_model import cross_entropy
from auricle.tasks.chat.task import tokenizer_for
from auricle.tasks.parts.assembly import assemble
from auricle.train.run_folder import Start
from auricle.train.start import train
from benchmarks.results import Figure, store

CLIPS, STEP_UTTERANCES, STEPS, WARM_UP, ROUNDS = 320, 16, 16, 4, 3
CHARACTERS_A_SECOND = 14
RATE = 16_000


def make_corpus(folder: Path) -> Path:
    """Noise of log-normal durations with sentences of fitting lengths; a JSONL file."""
    rng, sentences, rows = np.random.default_rng(1), grammar("game_commands"), []
    for number, seconds in enumerate(np.clip(rng.lognormal(np.log(6.0), 0.6, CLIPS), 0.5, 30.0)):
        path, text = folder / f"{number:04d}.wav", ""
        soundfile.write(path, 0.1 * rng.standard_normal(int(seconds * RATE)).astype(np.float32), RATE)
        while len(text) < seconds * CHARACTERS_A_SECOND:
            text = f"{text} {sentences.sentence('benchmark', number, len(text))}".strip()
        rows.append({"audio": str(path), "text": text[: max(1, int(seconds * CHARACTERS_A_SECOND))]})
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "corpus.jsonl"


def experiment(corpus: Path, model: list[str], window: str, folder: Path) -> list[str]:
    return [
        *model, "task=chat", "task.normalizer=none", f"model.encoder_window={window}",
        f"data.datasets={{noise: {{source: {{kind: jsonl, files: {{train: {corpus}}}}}, eval_split: null}}}}",
        "~data.datasets.commands", f"data.prepared_dir={folder / 'data'}",
        "training.trainable=[projector]", f"training.effective_batch_size={STEP_UTTERANCES}",
        "training.batch_seconds=60", f"training.max_steps={WARM_UP + STEPS}", f"training.logging_steps={WARM_UP}",
        "training.eval_steps=null", "training.save_steps=null", "training.save_minutes=null",
        f"training.output_dir={folder / 'run'}",
    ]  # fmt: skip


def ours(corpus: Path, model: list[str], window: str) -> tuple[float, float]:
    """(audio hours an hour after the warm-up, share of the time that waits for data)."""
    with tempfile.TemporaryDirectory() as folder:
        composed = compose(experiment(corpus, model, window, Path(folder)))
        train(decode(composed), Start(experiment="", command="", config_yaml=""))
        rows = [e.values for e in read(Path(folder) / "run" / "events.jsonl") if e.kind == "train"][1:]
    hours = sum(1 / row["audio_hours_per_hour"] for row in rows) / len(rows)
    return 1 / hours, sum(row["data_wait_percent"] for row in rows) / len(rows)


@dataclass
class PlainRows(torch.utils.data.Dataset):
    """What `datasets` gives: decoded audio and text."""

    rows: list[dict]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict:
        audio, _ = soundfile.read(self.rows[number]["audio"], dtype="float32")
        return {"audio": audio, "text": self.rows[number]["text"]}


class PlainModel(nn.Module):
    """Encoder, projector and language model in the plain way; `audio_tokens` of every clip are those of 30 seconds."""

    def __init__(self, model: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector, self.language_model = encoder, model.projector, model.language_model

    def forward(self, input_features, input_ids, attention_mask, labels):
        with torch.no_grad():
            encoded = self.encoder(input_features).last_hidden_state  # (B, 1500, E)
        full = torch.full((len(encoded),), encoded.shape[1], device=encoded.device)
        audio = self.projector(encoded.to(next(self.projector.parameters()).dtype), full).tokens  # (B, P, D)
        words = self.language_model.get_input_embeddings()(input_ids)
        embeds = torch.cat([audio.to(words.dtype), words], 1)
        ones = torch.ones(audio.shape[:2], dtype=attention_mask.dtype, device=audio.device)
        ignored = torch.full(audio.shape[:2], -100, dtype=labels.dtype, device=audio.device)
        return self.language_model(inputs_embeds=embeds, attention_mask=torch.cat([ones, attention_mask], 1),
                                   labels=torch.cat([ignored, labels], 1))


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_, **__):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def plain(corpus: Path, model: list[str]) -> float:
    """Audio hours an hour of a Trainer over the same parts."""
    rows = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    config = decode(compose([*model, "task=chat", "task.normalizer=none"]))
    tokenizer = tokenizer_for(config.task, config.model, (row["text"] for row in rows))
    made = assemble(config.model, config.task, tokenizer).model
    made.requires_grad_(False)
    made.projector.requires_grad_(True)
    whisper = WhisperConfig(**made.encoder.configuration)
    encoder = WhisperEncoder(whisper).to(next(made.encoder.parameters()).dtype).eval()
    extract = WhisperFeatureExtractor(feature_size=whisper.num_mel_bins)
    seconds: list[float] = []

    def collate(batch: list[dict]) -> dict:
        seconds.append(sum(len(row["audio"]) for row in batch) / RATE)
        features = extract([row["audio"] for row in batch], sampling_rate=RATE, return_tensors="pt").input_features
        said = [[*tokenizer.encode(row["text"]), tokenizer.end] for row in batch]
        ids = nn.utils.rnn.pad_sequence([torch.tensor(one) for one in said], batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(one), dtype=torch.long) for one in said], batch_first=True)
        return {"input_features": features, "input_ids": ids, "attention_mask": mask,
                "labels": ids.masked_fill(mask == 0, -100)}

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=STEP_UTTERANCES, max_steps=WARM_UP + STEPS, report_to=[], seed=1,
            save_strategy="no", logging_strategy="no", remove_unused_columns=False, disable_tqdm=True,
            bf16=torch.cuda.is_available(), use_cpu=not torch.cuda.is_available())
        Trainer(PlainModel(made, encoder), arguments, data_collator=collate, train_dataset=PlainRows(rows),
                callbacks=[clock]).train()
    return sum(seconds[WARM_UP:][:STEPS]) / (clock.times[-1] - clock.times[WARM_UP - 1])


def loss_memory(audio_tokens: int, chunked: bool, vocabulary: int = 131_072, answer: int = 64, batch: int = 4) -> float:
    """Peak MB that the loss adds, measured in a process of its own (`python -m benchmarks.speech_llm memory …`)."""
    command = [sys.executable, "-m", "benchmarks.speech_llm", "memory", str(audio_tokens), str(int(chunked)),
               str(vocabulary), str(answer), str(batch)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_memory(audio_tokens: int, chunked: int, vocabulary: int, answer: int, batch: int) -> float:
    width = 64
    head = nn.Linear(width, vocabulary, bias=False)
    hidden = torch.randn(batch, audio_tokens + answer, width, requires_grad=True)
    labels = torch.randint(vocabulary, (batch, answer))
    head.requires_grad_(False)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    if chunked:
        total, _ = cross_entropy(hidden[:, -answer:].flatten(0, 1), labels.flatten(), head)
    else:
        ignored = torch.full((batch, audio_tokens), -100)
        logits = head(hidden).float().flatten(0, 1)  # (BS, V)
        total = nn.functional.cross_entropy(logits, torch.cat([ignored, labels], 1).flatten())
    total.backward()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """kB"""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def compared(corpus: Path, model: list[str], what: str, goals: dict[str, str]) -> list[Figure]:
    """Rounds of all, one after the other; ratios of the same round."""
    found: dict[str, list[float]] = {"plain": [], "full": [], "trimmed": []}
    waits = []
    for _ in range(ROUNDS):
        found["plain"].append(plain(corpus, model))
        for window in ("full", "trimmed"):
            rate, wait = ours(corpus, model, window)
            found[window].append(rate)
            waits.append(wait)
    figures = []
    for window, goal in goals.items():
        ratios = [mine / theirs for mine, theirs in zip(found[window], found["plain"], strict=True)]
        figures.append(Figure(
            what=f"audio hours an hour, {what}, window {window}",
            measured=f"{np.median(found[window]):.0f} ({np.median(ratios):.1f} ×)",
            against=f"{goal}; plain Trainer loop: {np.median(found['plain']):.0f}",
            note=f"{STEP_UTTERANCES} utterances a step, medians of {ROUNDS} rounds of {STEPS} steps; ratios "
                 f"{min(ratios):.1f}–{max(ratios):.1f}"))
    figures.append(Figure(
        what=f"share of the step time that waits for data, {what}", measured=f"{np.median(waits):.1f}%",
        against="≤ 2 %", note=f"wav files on a local disk, {os.cpu_count()} cores shared with 2 loader workers"))
    return figures


def run() -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder))
        figures = compared(corpus, ["model=whisper_turbo_tiny"], "tiny preset on the CPU",
                           {"full": "≥ 2 ×", "trimmed": "≥ 3 ×"})
    few, many = (loss_memory(tokens, chunked=True) for tokens in (100, 1500))
    whole = loss_memory(1500, chunked=False)
    figures.append(Figure(
        what="peak memory of the loss, vocabulary 131,072, 4 answers of 64 tokens, 1,500 audio tokens each",
        measured=f"{many:.0f} MB", against=f"does not grow: {few:.0f} MB with 100 audio tokens; full logits "
        f"{whole:.0f} MB", note="forth and back, in a process of its own"))
    store("speech_llm", "Speech language model", figures)


if __name__ == "__main__":
    assert sys.argv[1] == "memory", sys.argv
    print(measure_memory(*map(int, sys.argv[2:])))

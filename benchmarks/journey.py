"""The tiny journey as a user runs it, and what keeps its result honest: the projector's stage again with wrong pairs,
with noise in the place of speech, and on an encoder that learned nothing."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import soundfile

from auricle.core.events import read
from auricle.data.grammar import grammar
from auricle.data.manifest import Manifest
from auricle.metrics import wer as word_errors
from benchmarks.results import Figure, store

RUN = "outputs/tiny_journey"


def auricle(folder: Path, *words: str) -> None:
    subprocess.run([sys.executable, "-m", "auricle", *words], cwd=folder, check=True)


def rows_of(manifest: Manifest, split: str) -> list[tuple[Path, str]]:
    rows = manifest.where(split=split)
    return [(rows.row(number).audio, rows.row(number).text) for number in range(len(rows))]


def write_corpus(path: Path, pairs: Iterable[tuple[Path, str]]) -> None:
    lines = (json.dumps({"audio": str(audio), "text": text}) + "\n" for audio, text in pairs)
    path.write_text("".join(lines), encoding="utf-8")


def deranged(pairs: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """The same clips and texts at random, no clip with a text that it says."""
    rng, said = np.random.default_rng(1), [text for _, text in pairs]
    texts = [said[number] for number in rng.permutation(len(said))]
    while clashes := [number for number, text in enumerate(texts) if text == said[number]]:
        for number in clashes:
            other = int(rng.integers(len(texts)))
            texts[number], texts[other] = texts[other], texts[number]
    return [(audio, text) for (audio, _), text in zip(pairs, texts, strict=True)]


def noisy(pairs: list[tuple[Path, str]], folder: Path) -> list[tuple[Path, str]]:
    """Noise of each clip's length and loudness in its place."""
    folder.mkdir()
    rng, made = np.random.default_rng(1), []
    for number, (audio, text) in enumerate(pairs):
        samples, rate = soundfile.read(audio, dtype="float32")
        path = folder / f"{number:05d}.wav"
        soundfile.write(path, (samples.std() * rng.standard_normal(len(samples))).astype(np.float32), rate)
        made.append((path, text))
    return made


def projector_alone(home: Path, name: str, start: Path, *more: str) -> float:
    """WER on the voices of dev after the projector's stage, from the parts that a journey made, with other data."""
    auricle(home, "train", "+experiments=tiny_journey", f"training.run_name={name}", "~stages.encoder",
            "~stages.language_model", f"training.pretrained_model_path={start}", *more)
    return [e.values for e in read(home / "outputs" / name / "events.jsonl") if e.kind == "eval"][-1]["wer"]


def other_speech(home: Path, name: str) -> list[str]:
    """Overrides by which the corpus of files NAME-SPLIT.jsonl takes the place of the synthesised one."""
    files = f"{{train: {home}/{name}-train.jsonl, dev: {home}/{name}-dev.jsonl}}"
    return ["~data.datasets.commands", f"data.datasets.spoken.source={{kind: jsonl, files: {files}}}",
            "stages.projector.datasets=[spoken]"]


def random_sentences(texts: list[str]) -> float:
    """WER of sentences that the grammar makes up, against these: twenty for each."""
    sentences = grammar("robot_commands")
    counts = [word_errors.score(text, sentences.sentence("chance", number, draw))
              for number, text in enumerate(texts) for draw in range(20)]
    return reduce(add, counts).rate


def checkpoint_after(run: Path, stage: str) -> Path:
    """The last one of a stage."""
    step = max(e.step for e in read(run / "events.jsonl") if e.kind == "save" and e.stage == stage)
    return run / "checkpoints" / f"step-{step:09d}"


def run() -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        seconds = [_timed(home, *words) for words in (
            ("train", "+experiments=tiny_journey"), ("eval", RUN, "--data", "commands", "--split", "test"))]
        data = next((home / "data").glob("commands-*"))
        auricle(home, "eval", str(checkpoint_after(home / RUN, "encoder")), "--data", str(data), "--split", "test")
        ctc, final = last(checkpoint_after(home / RUN, "encoder")), last(home / RUN)
        events = list(read(home / RUN / "events.jsonl"))
        start = checkpoint_after(home / RUN, "language_model")
        dev = _evaluations(events, "projector")[-1]["wer"]
        clips = {split: rows_of(Manifest.open(data), split) for split in ("train", "dev")}
        controls = {"same data": dev}
        for kind in ("shuffled", "noise"):
            for split, pairs in clips.items():
                other = noisy(pairs, home / f"noise-{split}-audio") if kind == "noise" else deranged(pairs)
                write_corpus(home / f"{kind}-{split}.jsonl", other if kind == "noise" or split == "train" else pairs)
            controls[kind] = projector_alone(home, kind, start, *other_speech(home, kind))
        controls["untrained encoder"] = _untrained(home)
        chance = random_sentences([text for _, text in clips["dev"]])
    store("journey", "The tiny journey", _figures(seconds, events, ctc, final, controls, chance))


def _timed(home: Path, *words: str) -> float:
    began = time.perf_counter()
    auricle(home, *words)
    return time.perf_counter() - began


def last(folder: Path) -> dict:
    return json.loads((folder / "eval" / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()[-1])


def _evaluations(events: list, stage: str) -> list[dict]:
    return [event.values for event in events if event.kind == "eval" and event.stage == stage]


def _untrained(home: Path) -> float:
    """The whole journey but for the encoder's stage."""
    auricle(home, "train", "+experiments=tiny_journey", "training.run_name=untrained", "~stages.encoder")
    return _evaluations(list(read(home / "outputs/untrained/events.jsonl")), "projector")[-1]["wer"]


def _figures(seconds: list[float], events: list, ctc: dict, final: dict, controls: dict, chance: float) -> list[Figure]:
    stages = {event.stage: event.time for event in events if event.kind == "stage"}
    begun = [*stages.values(), max(event.time for event in events)]
    parts = ", ".join(f"{name} {stop - start:.0f} s" for name, start, stop in
                      zip(stages, begun, begun[1:], strict=False))
    onsets = [event for event in events if event.kind == "onset"]
    goal = f"≥ {0.85 * chance:.0%} (0.85 × {chance:.0%}, sentences of the grammar at random)"
    return [
        Figure(what="from command to the rate on held-out voices, corpus included", measured=f"{sum(seconds):.0f} s",
               against="≤ 480 s", note=f"train {seconds[0]:.0f} s ({parts}), eval {seconds[1]:.0f} s"),
        Figure(what="WER on 10 held-out voices and on held-out sentences (split test)",
               measured=_rate(final), against=f"≤ 2 %, and below the encoder's own CTC: {_rate(ctc)}",
               note=f"{final['utterances']} utterances, CER {final['cer']:.2%}"),
        Figure(what="WER on 5 other held-out voices (split dev)", measured=f"{controls['same data']:.2%}",
               against=f"encoder's own CTC: {_evaluations(events, 'encoder')[-1]['wer']:.2%}", note=""),
        Figure(what="the same, projector trained on shuffled pairs (no clip keeps its text)",
               measured=f"{controls['shuffled']:.1%}", against=goal, note=""),
        Figure(what="the same, audio replaced by noise of equal length, in training and evaluation",
               measured=f"{controls['noise']:.1%}", against=goal, note=""),
        Figure(what="the same, with an encoder that was never trained",
               measured=f"{controls['untrained encoder']:.1%}", against="reported", note=""),
        Figure(what="the step at which the projector clicks", measured=", ".join(str(e.step) for e in onsets) or "none",
               against="detected by shape", note="events of the kind `onset`"),
    ]


def _rate(found: dict) -> str:
    return f"{found['wer']:.2%} [{found['wer_low']:.2%}, {found['wer_high']:.2%}]"

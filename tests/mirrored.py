"""Run folders with small checkpoints, for tests of mirrors."""

import json
import random
from pathlib import Path

import xxhash

from auricle.store import directory, steps
from auricle.store.mirror import Mirror


def make_run(folder: Path, *, created: float = 1.0, **config) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"created": created}))
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "events.jsonl").write_text('{"kind": "run"}\n')
    (folder / "eval" / "step-000000001").mkdir(parents=True)
    (folder / "eval" / "step-000000001" / "dev.jsonl").write_text('{"hypothesis": "a b"}\n')
    return folder


def add_checkpoint(run: Path, step: int, *, part: bytes = b"", best: bool = False, size: int = 20_000,
                   seed: int = 0) -> Path:
    """`part`: the content of a frozen part that the checkpoint names."""
    random_bytes = random.Random(f"{step} {seed}").randbytes
    name = xxhash.xxh3_128_hexdigest(part)

    def write(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps({"parts": {"encoder": {"part": name}} if part else {}}))
        (folder / "ctc_head.safetensors").write_bytes(random_bytes(size))
        (folder / "optimizer.safetensors").write_bytes(random_bytes(size))
        (folder / "trainer.json").write_text(json.dumps({"step": step}))

    if part:
        directory.publish(steps.parts_of(run) / name,
                          lambda folder: (folder / "weights.safetensors").write_bytes(part) and None)
    path = directory.publish(steps.path_of(run, step), write, replace=True)
    if best:
        directory.write_text(run / "best.json", json.dumps({"step": step}))
    return path


def mirror(run: Path, target: object, *, keep: int = 2, report=lambda sentence: None) -> Mirror:
    return Mirror(run, str(target), keep=keep, report=report, progress=lambda what, done, size: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

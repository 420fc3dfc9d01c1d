"""From the command to the first step of a resumed run, on a manifest of a million utterances, at several positions.

The manifest repeats real clips under new ids. The late position (near the end of epoch 3) is written into the state of
a checkpoint: reaching it by training would take days, and that restoring does not depend on it is what is measured.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from auricle.data.manifest import ARROW, PARQUET, REJECTIONS, SUMMARY
from auricle.store import directory, steps
from auricle.train.checkpoint import TRAINER, load_state
from benchmarks.results import Figure, store

FSDD = Path(os.environ.get("AURICLE_FSDD", Path(__file__).resolve().parents[2] / "shared" / "data" / "fsdd"))
ROWS, STARTS, BATCH = 1_000_000, 3, 8
YAML = f"""# @package _global_
model: {{kind: conformer, width: 16, layers: 1, heads: 2, subsampling: 2, subsampling_channels: 4,
        frontend: {{sample_rate: 8000}}}}
task: {{kind: ctc}}
data: {{datasets: {{many: {{manifest: ../manifest, eval_split: null}}}}}}
training: {{run_name: many, max_steps: null, num_train_epochs: 5, per_device_train_batch_size: {BATCH},
           learning_rate: 1e-4, lr_scheduler_type: constant_with_warmup, save_steps: 2, eval_steps: null,
           logging_steps: 1, dataloader_num_workers: 0}}
"""


def write_manifest(folder: Path) -> None:
    """A million rows from the few thousand of the corpus."""
    small = folder.with_name("small")
    command = [sys.executable, "-m", "auricle", "data", "prepare", "fsdd", f"folder={FSDD}", "--to", str(small)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    table = pa.ipc.open_file(pa.memory_map(str(small / ARROW))).read_all()
    rows = table.take(pa.array(np.arange(ROWS) % len(table)))
    ids = pa.array([f"row-{number:07d}" for number in range(ROWS)])
    rows = rows.set_column(0, "id", ids).set_column(
        rows.column_names.index("split"), "split", pa.array(["train"] * ROWS)
    ).combine_chunks()
    folder.mkdir()
    pq.write_table(rows, folder / PARQUET)
    with pa.ipc.new_file(str(folder / ARROW), rows.schema) as arrow:
        arrow.write_table(rows)
    shutil.copy(small / REJECTIONS, folder / REJECTIONS)
    summary = json.loads((small / SUMMARY).read_text(encoding="utf-8"))
    summary |= {
        "utterances": ROWS,
        "fingerprint": xxhash.xxh3_128_hexdigest((folder / PARQUET).read_bytes()),
        "bytes": {name: (folder / name).stat().st_size for name in (PARQUET, ARROW, REJECTIONS)},
    }
    (folder / SUMMARY).write_text(json.dumps(summary), encoding="utf-8")


def first_step(home: Path) -> float:
    """Seconds from the command to its first step; the run is killed after it."""
    events, began = home / "outputs" / "many" / "events.jsonl", time.time()
    command = [sys.executable, "-m", "auricle", "train", "+experiments=many"]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while process.poll() is None:
            for line in events.read_text(encoding="utf-8").splitlines() if events.exists() else ():
                if '"kind": "train"' in line and json.loads(line)["time"] > began:
                    _wait_for_save(events, began, process)
                    return json.loads(line)["time"] - began
            time.sleep(0.02)
        raise RuntimeError("training ended before its first step")
    finally:
        process.kill()
        process.wait()


def _wait_for_save(events: Path, began: float, process: subprocess.Popen) -> None:
    while process.poll() is None:
        lines = events.read_text(encoding="utf-8").splitlines()
        if any('"kind": "save"' in line and json.loads(line)["time"] > began for line in lines):
            return
        time.sleep(0.02)


def stand_at(run: Path, position: tuple[int, int]) -> None:
    """Rewrites the newest checkpoint's place in the data, and publishes it anew."""
    newest = steps.all_steps(run)[-1]
    state = load_state(newest)
    done = position[0] * (ROWS // BATCH) + position[1]
    progress = replace(state.progress, steps=done, run_steps=done, epochs=done / (ROWS // BATCH))
    moved = replace(state, position=position, progress=progress)

    def write(folder: Path) -> None:
        for path in newest.iterdir():
            if path.name not in (directory.CHECKSUMS, TRAINER):
                shutil.copy(path, folder / path.name)
        (folder / TRAINER).write_text(moved.to_json(), encoding="utf-8")

    directory.publish(steps.path_of(run, done), write)


def run() -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        write_manifest(home / "manifest")
        groups = home / "configs" / "hydra"
        for group in ("experiments", "data"):
            (groups / group).mkdir(parents=True)
        (groups / "data" / "default.yaml").write_text("{}\n", encoding="utf-8")
        text = YAML.replace("../manifest", str(home / "manifest"))
        (groups / "experiments" / "many.yaml").write_text(text, encoding="utf-8")
        folder, fresh = home / "outputs" / "many", []
        for _ in range(STARTS):
            shutil.rmtree(folder, ignore_errors=True)
            fresh.append(first_step(home))
        early = [first_step(home) for _ in range(STARTS)]
        stand_at(folder, (2, ROWS // BATCH - 100))
        late = [first_step(home) for _ in range(STARTS)]
    fresh_seconds, early_seconds, late_seconds = map(statistics.median, (fresh, early, late))
    store(
        "resume",
        "Resume",
        [
            Figure(
                what=f"command to first step, {ROWS:,} utterances, near the end of epoch 3",
                measured=f"{late_seconds:.1f} s ({late_seconds - fresh_seconds:+.1f} s)",
                against=f"≤ +5 s; fresh start {fresh_seconds:.1f} s",
                note=f"resumed at the first steps of epoch 1: {early_seconds:.1f} s; medians of {STARTS} starts",
            )
        ],
    )

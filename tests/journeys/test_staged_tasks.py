"""One run of three stages with three tasks: an encoder by CTC, a language model by text, a projector between them."""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from auricle.core.config import ExperimentConfig
from auricle.core.decode import decode
from auricle.data.chat_tokenizer import ChatTokenizer
from auricle.data.tokenizers import Characters
from auricle.inference.load import open_model
from auricle.models.parts.weights import component_tensors, weights_hash
from auricle.tasks.parts.assembly import load
from tests.experiments import losses, run
from tests.models.speech_llm.test_model import CONFORMER, DECODER
from tests.paths import ROOT
from tests.speech import digits_manifest

STEPS = 4


def journey(folder: Path, name: str = "run", **training) -> ExperimentConfig:
    manifest = folder / "manifest"
    if not manifest.exists():
        digits_manifest(folder)
    return decode({
        "model": {"kind": "speech_llm", "encoder": CONFORMER, "projector": {"kind": "swiglu", "hidden": 24},
                  "decoder": {"config": DECODER}, "ctc_alphabet": "abcdefghijklmnopqrstuvwxyz"},
        "task": {"kind": "chat", "normalizer": "basic", "max_new_tokens": 4},
        "data": {
            "prepared_dir": str(folder / "data"),
            "datasets": {
                "digits": {"manifest": str(manifest), "eval_split": "test"},
                "words": {"source": {"kind": "text", "text": {"grammar": "digits"}, "sentences": 60},
                          "eval_split": None},
            },
            "augment": {"text": {}},
        },
        "training": {"output_dir": str(folder / name), "max_steps": STEPS, "batch_seconds": 6.0, "learning_rate": 0.003,
                     "dataloader_num_workers": 0, "device": "cpu", "logging_steps": 1, "save_steps": 3,
                     "save_total_limit": 9, **training},
        "stages": {
            "encoder": {"task": {"kind": "ctc"}, "datasets": ["digits"], "trainable": ["encoder", "ctc_head"]},
            "language_model": {"datasets": ["words"], "trainable": ["decoder", "lm_head"]},
            "projector": {"datasets": ["digits"], "trainable": ["projector"]},
        },
    })


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("journey")
    _, events = run(journey(folder))
    return folder, events


def checkpoint(folder: Path, step: int) -> Path:
    return folder / "run" / "checkpoints" / f"step-{step:09d}"


def test_each_stage_trains_its_own_components_and_leaves_the_others_as_they_were(done):
    folder, events = done
    stages = {event.stage: set(event.values["components"]) for event in events if event.kind == "stage"}
    assert stages == {"encoder": {"encoder", "ctc_head"}, "language_model": {"decoder", "lm_head"},
                      "projector": {"projector"}}
    hashes = []
    for step in (STEPS, 2 * STEPS, 3 * STEPS):
        model = load(checkpoint(folder, step)).model
        hashes.append({name: weights_hash(tensors) for name, tensors in component_tensors(model).items()})
    changed = [{name for name in before if before[name] != after[name]} for before, after in pairwise(hashes)]
    assert changed == [{"decoder", "lm_head"}, {"projector"}]


def test_a_stages_checkpoint_does_what_the_stage_learned_with_its_own_tokenizer(done):
    folder, _ = done
    first, last = open_model(str(checkpoint(folder, STEPS))), open_model(str(folder / "run"))
    assert (first.task_config.kind, type(first.tokenizer)) == ("ctc", Characters)
    assert (last.task_config.kind, type(last.tokenizer)) == ("chat", ChatTokenizer)
    assert last.task.frontend.sample_rate == 16_000


def test_each_stage_ends_with_a_complete_evaluation_of_its_own(done):
    _, events = done
    found = [(event.stage, event.values["dataset"]) for event in events
             if event.kind == "eval" and event.values["complete"]]
    assert found == [("encoder", "digits"), ("projector", "digits")], "the text has nothing to be evaluated on"
    bests = [event for event in events if event.kind == "eval" and event.values["best"]]
    assert {event.stage for event in bests} == {"encoder", "projector"}, "rates of two tasks are not compared"


def test_a_projectors_checkpoint_holds_the_projector_and_names_the_rest(done):
    folder, _ = done
    last = checkpoint(folder, 3 * STEPS)
    weights = [path for path in last.glob("*.safetensors") if path.name != "optimizer.safetensors"]
    assert [path.name for path in weights] == ["projector.safetensors"]
    size = sum(path.stat().st_size for path in last.rglob("*") if path.is_file())
    tensors = sum(value.nbytes for value in load_file(weights[0]).values())
    assert size - (last / "tokenizer.json").stat().st_size <= 1.1 * 3 * tensors + 20_000, "weights and two moments"
    config = json.loads((last / "config.json").read_text())
    assert set(config["parts"]) == {"encoder", "decoder", "lm_head", "ctc_head"}
    assert {path.name for path in (folder / "run").glob("*.safetensors")} == {"projector.safetensors"}
    assert (folder / "run" / "config.json").read_text() == (last / "config.json").read_text()


@pytest.mark.parametrize("step", [3, 4, 7, 11])
def test_a_run_that_is_taken_up_in_any_stage_is_the_uninterrupted_one(done, step):
    folder, events = done
    _, first = run(journey(folder, f"again-{step}"))
    assert losses(first) == losses(events)
    kept = folder / f"again-{step}" / "checkpoints"
    for path in kept.glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    _, resumed = run(journey(folder, f"again-{step}"))
    expected = [row for row in losses(events) if row[0] > step]
    assert losses(resumed) == expected
    ours, theirs = (load(path / "checkpoints" / f"step-{3 * STEPS:09d}").model for path in
                    (folder / f"again-{step}", folder / "run"))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=0, rtol=0)


def test_a_stage_that_names_no_data_set_that_there_is_is_refused(tmp_path):
    plain = journey(tmp_path).model_dump(mode="json")
    plain["stages"]["projector"]["datasets"] = ["digit"]
    with pytest.raises(Exception, match="stage projector: no data set 'digit'; did you mean 'digits'"):
        decode(plain)


def losses_on(folder: Path, processes: int) -> list[tuple[int, float]]:
    """Of the whole journey, without dropout, on so many ranks; a step has two micro-batches."""
    script = folder / f"ranks{processes}.py"
    script.write_text(f"""
from pathlib import Path
import json, os
import tests.journeys.test_staged_tasks as staged
from tests.experiments import losses, run
staged.CONFORMER["config"]["dropout"] = 0.0
config = staged.journey(Path({str(folder)!r}), "on-{processes}", device="auto", batch_seconds=3.0,
                        gradient_accumulation_steps={2 // processes})
_, events = run(config)
if os.environ.get("RANK", "0") == "0":
    Path({str(folder / f"losses{processes}.json")!r}).write_text(json.dumps(losses(events)))
""")
    ranks = f"--nproc-per-node={processes}"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", ranks, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / f"losses{processes}.json").read_text())


@pytest.mark.slow
def test_two_ranks_go_the_whole_journey_as_one_does(tmp_path):
    journey(tmp_path)
    one, two = losses_on(tmp_path, 1), losses_on(tmp_path, 2)
    assert [step for step, _ in one] == [step for step, _ in two] == list(range(1, 3 * STEPS + 1))
    np.testing.assert_allclose([loss for _, loss in two], [loss for _, loss in one], rtol=2e-5)

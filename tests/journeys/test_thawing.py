"""VoxFormer in two stages: its WavLM frozen, then the top layers thawed, on one rank or two."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from auricle.core.config import ExperimentConfig
from auricle.core.decode import decode
from auricle.core.errors import ModelError
from auricle.core.events import read
from auricle.data.tokenizers import SentencePiece
from auricle.inference.load import open_model
from auricle.models.parts.weights import named_tensors
from auricle.tasks.parts.assembly import load
from auricle.train.optim import freeze_others, train_mode, trainable
from tests.experiments import losses, run
from tests.paths import ROOT
from tests.speech import digits_manifest

STEPS = 4
WAVLM = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
         "conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
         "feat_extract_norm": "group"}
MODEL = {"kind": "voxformer", "frontend": {"kind": "wave", "encoder": {"kind": "wavlm", "config": WAVLM}},
         "encoder": {"kind": "conformer", "width": 16, "layers": 1, "heads": 2, "feedforward_width": 32,
                     "convolution_kernel": 5},
         "decoder": {"layers": 1, "heads": 2, "feedforward_width": 32}}
REST = ["adapter", "encoder", "decoder", "ctc_head"]


def two_stages(folder: Path, name: str = "run", **training) -> ExperimentConfig:
    if not (folder / "manifest").exists():
        digits_manifest(folder)
    return decode({
        "model": MODEL,
        "task": {"kind": "hybrid", "label_smoothing_factor": 0.1, "max_new_tokens": 6,
                 "tokenizer": {"kind": "sentencepiece", "vocabulary_size": 18}},
        "data": {"datasets": {"digits": {"manifest": str(folder / "manifest"), "eval_split": "test"}}},
        "training": {"output_dir": str(folder / name), "max_steps": STEPS, "batch_seconds": 6.0, "learning_rate": 0.003,
                     "dataloader_num_workers": 0, "device": "cpu", "logging_steps": 1, "save_steps": 3,
                     "save_total_limit": 9, **training},
        "stages": {"frozen": {"trainable": REST},
                   "thawed": {"trainable": ["frontend.top(2)", *REST], "learning_rates": {"frontend.top(2)": 0.001},
                              "warmup_steps": 2}},
    })


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("thawing")
    _, events = run(two_stages(folder))
    return folder, events


def checkpoint(folder: Path, step: int, name: str = "run") -> Path:
    return folder / name / "checkpoints" / f"step-{step:09d}"


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def named(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


def in_top_layers(name: str) -> bool:
    return ".layers.2." in name or ".layers.3." in name


def test_the_second_stage_trains_the_named_layers_and_no_other_of_the_front_end(done):
    folder, events = done
    first, second = (named(load(checkpoint(folder, step)).model) for step in (STEPS, 2 * STEPS))
    names = changed(first, second)
    front_end = {name for name in first if name.startswith("front_end.encoder.")}
    assert names & front_end == {name for name in front_end if in_top_layers(name) and name in names}
    assert {name.split(".layers.")[1][0] for name in names & front_end} == {"2", "3"}
    assert len(names & front_end) > 20
    stages = {event.stage: event.values["components"] for event in events if event.kind == "stage"}
    assert set(stages["frozen"]) == set(REST)
    assert set(stages["thawed"]) == {"frontend.top(2)", *REST}


def test_thawing_changes_no_loss(done):
    _, events = done
    switch = next(event.values for event in events if event.kind == "switch")
    assert switch["loss_after"] == pytest.approx(switch["loss_before"], abs=1e-6)
    assert switch["moments_carried"] > 0
    assert switch["moments_fresh"] > 20


def test_a_frozen_front_end_draws_nothing_at_random_and_leaves_no_graph(done):
    folder, _ = done
    assembly = load(checkpoint(folder, STEPS))
    freeze_others(assembly.model, trainable(assembly.model, two_stages(folder).stage_configs()["frozen"]))
    train_mode(assembly.model)
    front_end = assembly.model.components()["frontend"]
    assert not any(module.training for module in front_end.modules())
    audio = torch.randn(1, 4000, 1)
    heard, _ = front_end(audio, torch.tensor([4000]))
    assert not heard.requires_grad
    assert torch.equal(heard, front_end(audio, torch.tensor([4000]))[0])


@pytest.mark.parametrize("step", [3, 4, 7])
def test_a_run_that_is_taken_up_in_either_stage_is_the_uninterrupted_one(done, step):
    folder, events = done
    name = f"again-{step}"
    run(two_stages(folder, name))
    for path in (folder / name / "checkpoints").glob("step-*"):
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    _, resumed = run(two_stages(folder, name))
    assert losses(resumed) == [row for row in losses(events) if row[0] > step]
    ours, theirs = (load(checkpoint(folder, 2 * STEPS, which)).model for which in (name, "run"))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=0, rtol=0)


def test_pieces_travel_with_every_checkpoint_and_have_neither_blank_nor_end_among_them(done):
    folder, _ = done
    for path in (checkpoint(folder, 3), folder / "run"):
        made = open_model(str(path))
        assert isinstance(made.tokenizer, SentencePiece)
        size = made.tokenizer.size
        assert (made.task.blank, made.model.decoder.end) == (size, size)
        assert max(label for word in ("zero", "seven") for label in made.tokenizer.encode(word)) < size


def test_a_checkpoint_of_another_vocabulary_is_refused_by_name(done, tmp_path):
    folder, _ = done
    other = two_stages(folder, "other", pretrained_model_path=str(folder / "run")).model_dump(mode="json")
    other["task"]["kind"], other["training"]["output_dir"] = "ctc", str(tmp_path / "other")
    other["task"] = {"kind": "ctc"}
    with pytest.raises(ModelError, match="vocabular"):
        run(decode(other))


def on_ranks(folder: Path, processes: int, name: str, **training) -> list[dict[str, torch.Tensor]]:
    """The weights that each rank ends with."""
    script = folder / f"ranks{processes}.py"
    script.write_text(f"""
from pathlib import Path
import os
from safetensors.torch import save_file
import auricle.train.start as start
from auricle.models.parts.weights import named_tensors
from tests.experiments import run
from tests.journeys.test_thawing import MODEL, two_stages
MODEL["encoder"]["dropout"] = MODEL["decoder"]["dropout"] = MODEL["frontend"]["dropout"] = 0.0
for kind in ("hidden", "attention", "activation", "feat_proj"):
    MODEL["frontend"]["encoder"]["config"][kind + "_dropout"] = 0.0
made, assemble = [], start.assemble
def kept(*args, **options):
    made.append(assemble(*args, **options))
    return made[-1]
start.assemble = kept
run(two_stages(Path({str(folder)!r}), {name!r}, device="auto", batch_seconds=3.0,
               gradient_accumulation_steps={2 // processes}, **{training}))
if {training}:
    raise SystemExit
weights = {{name: tensor.detach().clone() for name, tensor in named_tensors(made[0].model).items()}}
save_file(weights, Path({str(folder)!r}) / f"rank-{processes}-{{os.environ.get('RANK', '0')}}.safetensors")
""")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
               str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    if training:
        return []
    return [load_file(folder / f"rank-{processes}-{rank}.safetensors") for rank in range(processes)]


def losses_of(folder: Path, name: str) -> list[float]:
    return [loss for _, loss in losses(list(read(folder / name / "events.jsonl")))]


@pytest.mark.slow
def test_the_named_layers_change_on_both_ranks_alike_and_as_on_one(tmp_path):
    two_stages(tmp_path)
    first, second = on_ranks(tmp_path, 2, "on-2")
    assert not changed(first, second)
    frozen = named(load(checkpoint(tmp_path, STEPS, "on-2")).model)
    moved = {name for name in changed(frozen, second) if name.startswith("front_end.encoder.")}
    assert {name.split(".layers.")[1][0] for name in moved} == {"2", "3"}
    config = json.loads((tmp_path / "on-2" / "config.json").read_text())
    assert "frontend" not in config["parts"]
    on_ranks(tmp_path, 1, "on-1")
    on_ranks(tmp_path, 2, "sharded", fsdp=True)
    expected = losses_of(tmp_path, "on-2")
    assert len(expected) == 2 * STEPS
    for name in ("on-1", "sharded"):
        assert losses_of(tmp_path, name) == pytest.approx(expected, rel=1e-2)

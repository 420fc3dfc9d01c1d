import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from auricle.core.errors import CheckpointError
from auricle.store import directory
from auricle.train import sharded
from auricle.train.engine import Engine
from tests.paths import ROOT
from tests.train.sharded_ranks import LAST, MICRO_BATCHES, SAVED, Training, settings, switched

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(settings())


@pytest.fixture(scope="module")
def one(engine, tmp_path_factory) -> dict:
    """The uninterrupted run of one process; its checkpoint is an ordinary one."""
    folder = tmp_path_factory.mktemp("sharded")
    training = Training(engine)
    losses = training.steps(0, SAVED)
    training.save_ordinary(folder / "one")
    losses += training.steps(SAVED, LAST)
    return {"folder": folder, "names": sorted(training.weights()), "run": losses, "switched": switched(training)}


@pytest.fixture(scope="module")
def two(one) -> list[dict]:
    """What each of two ranks found."""
    folder = one["folder"]
    script = str(ROOT / "tests/train/sharded_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def assert_close(found: list[list[float]], expected: list[list[float]], rtol: float) -> None:
    """Losses within `rtol`; gradient norms, which sum over every parameter, within ten times that."""
    (losses, norms), (expected_losses, expected_norms) = np.transpose(found), np.transpose(expected)
    np.testing.assert_allclose(losses, expected_losses, rtol=rtol)
    np.testing.assert_allclose(norms, expected_norms, rtol=10 * rtol)


def test_every_parameter_is_sharded_and_keeps_its_name(one, two):
    assert two[0]["sharded"]
    assert two[0]["names"] == one["names"]


def test_shards_learn_what_copies_and_what_a_single_process_learn(one, two):
    np.testing.assert_allclose(two[0]["run"], two[0]["copied"], rtol=1e-5)
    np.testing.assert_allclose(two[0]["run"], one["run"], rtol=1e-5)
    assert two[0]["run"] == two[1]["run"]


def test_what_trains_may_change_while_the_model_stays_sharded(one, two):
    np.testing.assert_allclose(two[0]["switched"], one["switched"], rtol=1e-5)


def test_two_ranks_go_on_bit_for_bit_where_two_stopped(two):
    assert two[0]["resumed"] == two[0]["run"][SAVED:]
    assert two[0]["carried"] == [len(two[0]["names"]), 0]


def test_weights_and_moments_return_into_a_model_that_trains(one, two, engine):
    assert two[0]["returned"] == two[0]["run"][SAVED:]
    training = Training(engine)
    training.steps(0, 1)
    training.go_back(one["folder"] / "one")
    assert training.steps(SAVED, LAST) == one["run"][SAVED:]


def test_a_checkpoint_gives_way_only_to_one_that_replaces_it(one, two):
    assert two[0]["left_as_it_was"]
    two_saved, other = one["folder"] / "two", one["folder"] / "other"
    assert directory.problems(other) == []
    assert (other / "encoder.safetensors").read_bytes() == (two_saved / "encoder.safetensors").read_bytes()
    found, expected = (sharded.read_full(folder / sharded.OPTIMIZER) for folder in (other, two_saved))
    assert all(torch.equal(found.pop(name), moment) for name, moment in expected.items())
    assert not found


def test_one_process_goes_on_where_two_ranks_stopped(one, two, engine):
    training = Training(engine, one["folder"] / "two")
    assert training.carried == (len(one["names"]), 0)
    assert_close(training.steps(SAVED, LAST), two[0]["run"][SAVED:], rtol=1e-6)


def test_two_ranks_go_on_where_one_process_stopped(one, two):
    assert_close(two[0]["from_one"], one["run"][SAVED:], rtol=1e-6)


def test_ranks_may_evaluate_different_numbers_of_batches(one, two, engine):
    expected = Training(engine, one["folder"] / "two").predicted(MICRO_BATCHES)
    assert two[0]["evaluated"] == []
    np.testing.assert_allclose(two[1]["evaluated"], expected, rtol=1e-5)
    assert [len(rank["late"]) for rank in two] == [MICRO_BATCHES, 1]
    assert two[0]["late"][:1] == two[1]["late"]


def test_in_bf16_weights_and_moments_stay_fp32(one, two):
    assert two[0]["bf16"]["types"] == ["torch.float32"]
    losses, exact = np.array(two[0]["bf16"]["losses"]), np.array(one["run"][:3])
    np.testing.assert_allclose(losses[:, 0], exact[:, 0], rtol=0.02)
    assert not np.array_equal(losses, exact)


def test_a_sharded_checkpoint_holds_whole_weights_shards_of_moments_and_no_pickle(one, two):
    folder = one["folder"] / "two"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    shards = [f"optimizer/shard-0000{number}-model-00001-of-00001.safetensors" for number in (1, 2)]
    assert names == [directory.CHECKSUMS, "config.json", "ctc_head.safetensors", "encoder.safetensors", *shards]
    assert sorted({**load_file(folder / names[2]), **load_file(folder / names[3])}) == one["names"]
    sizes = [(folder / shard).stat().st_size for shard in shards]
    assert max(sizes) < 0.7 * sum(sizes)
    assert directory.problems(folder) == []


def test_a_flipped_bit_in_a_shard_is_found(one, two):
    path = sorted((one["folder"] / "two" / "optimizer").iterdir())[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    found = directory.problems(one["folder"] / "two")
    path.write_bytes(whole)
    assert found == [f"optimizer/{path.name} does not match its hash"]


def test_shards_are_read_as_whole_tensors_without_other_processes(one, two, engine):
    found = sharded.read_full(one["folder"] / "two" / sharded.OPTIMIZER)
    training = Training(engine, one["folder"] / "two")
    for name, moment in sharded.moments(training.optimizer).items():
        assert torch.equal(found.pop(name), moment), name
    assert not found


def test_fewer_rows_than_ranks_and_tensors_without_dimensions_survive(two):
    assert two[0]["uneven"]
    assert two[1]["uneven"]


def test_a_rank_that_cannot_write_fails_all_ranks_with_its_reason(two):
    assert two[0]["failures"] == two[1]["failures"]
    assert [text.split()[0] for text in two[0]["failures"]] == ["OSError", "OSError"]
    assert all("No space left" in text for text in two[0]["failures"])
    assert two[0]["left"] == ["one", "other", "two"]


def test_moments_of_what_trains_now_are_carried_and_the_others_start_afresh(one, two, engine):
    training = Training(engine)
    training.enter(settings(trainable=["ctc_head"]))
    assert sharded.load_optimizer(one["folder"] / "two", training.optimizer, engine) == (2, 0)
    training.enter(settings())
    found = sharded.read_full(one["folder"] / "two" / sharded.OPTIMIZER)
    head = {name: tensor for name, tensor in found.items() if "/ctc_head." in name}
    sharded.write(one["folder"] / "head" / sharded.OPTIMIZER, head, engine)
    carried, fresh = sharded.load_optimizer(one["folder"] / "head", training.optimizer, engine)
    assert (carried, fresh) == (2, len(one["names"]) - 2)


def test_a_tensor_of_another_shape_or_name_is_refused(tmp_path, engine):
    sharded.write(tmp_path / "x", {"a": torch.ones(4, 2)}, engine)
    for wrong in ({"a": torch.ones(4, 3)}, {"b": torch.ones(4, 2)}):
        with pytest.raises(CheckpointError, match="another model"):
            sharded.read(tmp_path / "x", wrong, engine)
    with pytest.raises(CheckpointError, match="expected safetensors files"):
        sharded.read_full(Path(tmp_path / "missing"))

"""How the ranks of a machine are started, and with which code they end."""

import pytest

from auricle.core.errors import UsageError
from auricle.train.ranks import Ranks, code_of, without_ranks


def test_one_machine_meets_nobody():
    assert "--standalone" in Ranks(nproc=8).options("run")
    assert not any("--nnodes" in option for option in Ranks(nproc=8).options("run"))


def test_several_machines_meet_at_the_first_and_are_numbered_as_was_said():
    options = Ranks(nproc=8, nnodes=2, node_rank=1, rendezvous="[2001:db8::7]:29500").options("voxformer-b")
    assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=8", "--rdzv-id=voxformer-b", "--rdzv-backend=static",
            "--master-addr=2001:db8::7", "--master-port=29500", "--max-restarts=0"} <= set(options)
    assert "--standalone" not in options


@pytest.mark.parametrize(("ranks", "said"), [
    ({"nnodes": 2}, "add --rendezvous HOST:PORT"),
    ({"nnodes": 2, "node_rank": 2, "rendezvous": "10.0.0.7:29500"}, "--node-rank 2: expected 0 to 1"),
    ({"nnodes": 2, "rendezvous": "10.0.0.7"}, "--rendezvous 10.0.0.7: expected HOST:PORT"),
    ({"nnodes": 2, "rendezvous": "10.0.0.7:ssh"}, "expected HOST:PORT"),
])
def test_what_does_not_fit_together_is_refused(ranks, said):
    with pytest.raises(UsageError, match=said):
        Ranks(**ranks)


def test_only_what_is_not_a_rank_itself_starts_ranks(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert not Ranks().needed
    assert Ranks(nproc=2).needed
    assert Ranks(nnodes=2, rendezvous="10.0.0.7:29500").needed
    monkeypatch.setenv("RANK", "0")
    assert not Ranks(nproc=2).needed


def test_ranks_get_the_command_line_without_what_starts_them():
    words = ["train", "--nproc", "8", "+experiments=a", "--nnodes=2", "--node-rank", "1", "--rendezvous", "a:1",
             "--fresh", "training.run_name=nproc"]
    assert without_ranks(words) == ["train", "+experiments=a", "--fresh", "training.run_name=nproc"]


@pytest.mark.parametrize(("codes", "alone", "code"), [
    ([75, 75], True, 75),
    ([3], True, 3),
    ([75, 3], True, 3),
    ([76, 76], True, 76),
    ([-9], True, 137),
    ([-9, 75], True, 75),
    ([-9], False, 75),
    ([2], False, 2),
])
def test_an_error_that_stays_counts_more_than_a_rank_that_was_missed(codes, alone, code):
    assert code_of(codes, alone=alone) == code

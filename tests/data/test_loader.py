import os
import signal
import threading

import pytest
import torch

from auricle.core.errors import Preempted
from auricle.data.loader import batches


class Numbers(torch.utils.data.Dataset):
    """Each place with the process that loaded it."""

    def __getitem__(self, place):
        if place == "wrong":
            raise RuntimeError("a corpus that is no corpus")
        return place, os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_the_order_of_their_places(workers):
    found = list(batches(Numbers(), iter(range(50)), workers))
    assert [place for place, _ in found] == list(range(50))
    assert len({process for _, process in found}) == max(workers, 1)
    assert (found[0][1] == os.getpid()) == (workers == 0)


def test_a_killed_worker_is_noticed_where_batches_are_asked_for_and_nowhere_else():
    before = signal.getsignal(signal.SIGCHLD)
    loaded = batches(Numbers(), iter(range(1000)), 2)
    _, worker = next(loaded)
    assert signal.getsignal(signal.SIGCHLD) is before
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(Preempted, match=r"a worker process was killed .*run the same command to go on") as raised:
        list(loaded)
    assert raised.value.exit_code == 75


class CutOff:
    """A batch whose worker is killed while the parent fetches it, and still seen alive when the pipe breaks."""

    def __reduce__(self):
        return cut_off, (os.getpid(),)


def cut_off(worker):
    threading.Timer(0.5, os.kill, (worker, signal.SIGKILL)).start()
    raise ConnectionResetError(104, "Connection reset by peer")


class CutOffs(torch.utils.data.Dataset):
    def __getitem__(self, place):
        return CutOff()


def test_a_worker_that_is_killed_while_its_batch_is_fetched_is_noticed_too():
    with pytest.raises(Preempted, match=r"a worker process was killed .*Connection reset"):
        list(batches(CutOffs(), iter(range(10)), 1))


class Unreachable(torch.utils.data.Dataset):
    def __getitem__(self, place):
        raise ConnectionResetError(104, "Connection reset by peer")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_connection_of_a_source_is_no_killed_worker(workers):
    with pytest.raises(ConnectionResetError):
        list(batches(Unreachable(), iter(range(10)), workers))


def test_an_error_in_a_worker_is_that_error():
    with pytest.raises(RuntimeError, match="a corpus that is no corpus"):
        list(batches(Numbers(), ["wrong"], 1))

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from auricle.store import directory, steps, writer
from auricle.store.buffers import Buffer
from auricle.store.steps import Retention
from auricle.store.writer import Order, Writer, write_here
from tests import faults

SIZE = 300_000


@pytest.fixture
def buffers():
    made = {"weights": Buffer(SIZE), "moments": Buffer(2 * SIZE)}
    yield made
    for buffer in made.values():
        buffer.close()


@pytest.fixture
def process(tmp_path, buffers):
    with contextlib.closing(Writer(tmp_path, buffers)) as made:
        yield made


def order(step, buffers, **options):
    """The order of a checkpoint whose weights are all `step`, in a file and in memory."""
    for buffer in buffers.values():
        buffer.memory[:] = bytes([step]) * buffer.size
    texts = {"trainer.json": json.dumps(step), "config.json": "{}"}
    files = {"encoder.safetensors": "weights", "optimizer.safetensors": "moments"}
    return Order(**{"checkpoint": steps.name_of(step), "buffers": files, "texts": texts,
                    "retention": Retention(newest=2), **options})


def value(run_folder, step):
    """The step that a checkpoint's files say, all of them."""
    path = steps.path_of(run_folder, step)
    assert steps.problems(path) == []
    said = json.loads((path / "trainer.json").read_text())
    assert (path / "encoder.safetensors").read_bytes() == bytes([said]) * SIZE
    assert (path / "optimizer.safetensors").read_bytes() == bytes([said]) * 2 * SIZE
    return said


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def mirrored(run_folder, *numbers):
    (run_folder / "mirrors").mkdir(exist_ok=True)
    verified = {steps.name_of(n): directory.self_hash(steps.path_of(run_folder, n)) for n in numbers}
    (run_folder / "mirrors" / "home.json").write_text(json.dumps({"verified": verified}))



# -- the save itself --------------------------------------------------------------------------------------------------


def test_a_save_writes_exposes_prunes_and_hints(tmp_path, buffers):
    static = tmp_path / "static"
    (static / "deep").mkdir(parents=True)
    (static / "deep" / "vocabulary.txt").write_text("a b")
    for step in (1, 2, 3):
        written = write_here(
            tmp_path, buffers,
            order(step, buffers, static=str(static), expose=steps.name_of(step), hints={"latest.json": str(step)}),
        )
        assert (written.committed, written.error, written.waited_for_space) == (True, None, False)
        assert written.bytes == 3 * SIZE + len('1{}a b')
    assert written.pruned == (steps.name_of(1),)
    assert value(tmp_path, 3) == 3
    assert names(tmp_path / "checkpoints") == [steps.name_of(2), steps.name_of(3)]
    assert (tmp_path / "latest.json").read_text() == "3"
    assert (tmp_path / "deep" / "vocabulary.txt").read_text() == "a b"
    assert (tmp_path / "encoder.safetensors").read_bytes() == bytes([3]) * SIZE


def test_a_good_checkpoint_is_left_alone_and_a_damaged_one_is_written_again(tmp_path, buffers):
    write_here(tmp_path, buffers, order(1, buffers))
    before = steps.path_of(tmp_path, 1).stat().st_ino
    assert write_here(tmp_path, buffers, order(1, buffers)).committed
    assert steps.path_of(tmp_path, 1).stat().st_ino == before
    (steps.path_of(tmp_path, 1) / "trainer.json").write_text("7")
    assert write_here(tmp_path, buffers, order(1, buffers)).committed
    assert value(tmp_path, 1) == 1


def test_a_replaced_checkpoint_holds_the_new_state(tmp_path, buffers):
    write_here(tmp_path, buffers, order(1, buffers))
    assert write_here(tmp_path, buffers, order(9, buffers, checkpoint=steps.name_of(1), replace=True)).committed
    assert value(tmp_path, 1) == 9
    assert names(tmp_path / "checkpoints") == [steps.name_of(1)]


def test_a_part_must_be_there_before_a_checkpoint_names_it(tmp_path, buffers):
    texts = {"trainer.json": "1", "config.json": '{"parts": {"encoder": {"part": "ab12"}}}'}
    written = write_here(tmp_path, buffers, order(1, buffers, texts=texts))
    assert not written.committed
    assert "names part ab12, which is not in" in written.error
    directory.publish(steps.parts_of(tmp_path) / "ab12", lambda folder: (folder / "w").write_text("w") and None)
    assert write_here(tmp_path, buffers, order(1, buffers, texts=texts)).error is None


def test_what_fails_after_the_commit_is_said_and_stops_nothing_else(tmp_path, buffers):
    write_here(tmp_path, buffers, order(1, buffers))
    (tmp_path / "config.json").mkdir()
    written = write_here(
        tmp_path, buffers,
        order(2, buffers, expose=steps.name_of(2), retention=Retention(newest=1), hints={"latest.json": "2"}),
    )
    assert written.committed
    assert written.error.startswith("it is saved, but then:")
    assert (written.pruned, (tmp_path / "latest.json").read_text()) == ((steps.name_of(1),), "2")


# -- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_disk_costs_nothing_that_was_there(tmp_path, buffers):
    write_here(tmp_path, buffers, order(1, buffers))
    with faults.disk_full():
        written = write_here(tmp_path, buffers, order(2, buffers))
    assert (written.committed, written.waited_for_space, written.pruned) == (False, True, ())
    assert written.error.startswith(f"no space in {tmp_path}")
    assert names(tmp_path / "checkpoints") == [steps.name_of(1)]
    assert value(tmp_path, 1) == 1
    assert write_here(tmp_path, buffers, order(2, buffers)).error is None


def test_a_full_disk_is_emptied_of_what_a_mirror_holds_and_tried_once_more(tmp_path, buffers):
    keep = Retention(newest=9, best=steps.name_of(1))
    for step in (1, 2, 3, 4):
        write_here(tmp_path, buffers, order(step, buffers, retention=keep))
    mirrored(tmp_path, 1, 2, 4)
    with faults.disk_full(failures=1):
        written = write_here(tmp_path, buffers, order(5, buffers, retention=keep))
    assert (written.committed, written.waited_for_space, written.pruned) == (True, True, (steps.name_of(2),))
    assert [steps.step_of(path.name) for path in steps.all_steps(tmp_path)] == [1, 3, 4, 5]


def test_the_space_is_looked_at_before_the_first_byte(tmp_path, buffers, monkeypatch):
    monkeypatch.setattr(writer, "MARGIN", 1 << 60)
    monkeypatch.setattr(directory, "publish", None)
    written = write_here(tmp_path, buffers, order(1, buffers))
    assert "1,152,921,504,607.8 MB" in written.error
    assert "MB are free" in written.error


@pytest.mark.root
def test_a_small_disk_that_fills_up_loses_no_checkpoint(tmp_path, buffers):
    with faults.tmpfs(tmp_path / "small", 5 << 20) as disk:
        keep, saved = Retention(newest=9), []
        for step in range(1, 9):
            written = write_here(disk, buffers, order(step, buffers, retention=keep))
            saved += [step] if written.committed else []
        assert saved == [1, 2, 3, 4]
        assert all(value(disk, step) == step for step in saved)
        assert names(disk / "checkpoints") == [steps.name_of(step) for step in saved]
        mirrored(disk, 1)
        written = write_here(disk, buffers, order(9, buffers, retention=keep))
        assert (written.committed, written.waited_for_space, written.pruned) == (True, True, (steps.name_of(1),))
        assert value(disk, 9) == 9


# -- the process ------------------------------------------------------------------------------------------------------


def test_the_process_writes_what_the_buffers_hold(tmp_path, buffers, process):
    assert process.poll() is None
    assert process.wait() is None
    for step in (1, 2, 3):
        process.start(order(step, buffers))
        assert process.busy
        with pytest.raises(RuntimeError, match="still being saved"):
            process.start(order(step, buffers))
        written = process.wait()
        assert (written.checkpoint, written.error, process.busy) == (steps.name_of(step), None, False)
        assert value(tmp_path, step) == step
    assert written.pruned == (steps.name_of(1),)


def test_polling_ends_in_the_answer(buffers, process):
    process.start(order(1, buffers))
    while (written := process.poll()) is None:
        time.sleep(0.01)
    assert written.committed
    assert process.poll() is None


def test_closing_waits_for_the_save_in_hand(tmp_path, buffers):
    made = Writer(tmp_path, buffers)
    made.start(order(1, buffers))
    assert made.close().committed
    assert value(tmp_path, 1) == 1
    assert made.close() is None


def test_a_killed_writer_is_an_answer_and_the_next_save_starts_another(tmp_path, buffers, process):
    process.start(order(1, buffers))
    assert process.wait().committed
    os.kill(process._process.pid, signal.SIGSTOP)
    process.start(order(2, buffers))
    assert process.poll() is None
    os.kill(process._process.pid, signal.SIGKILL)
    written = process.wait()
    assert (written.checkpoint, written.committed) == (steps.name_of(2), False)
    assert "exit code -9" in written.error
    process.start(order(3, buffers))
    assert process.wait().committed
    assert steps.newest(tmp_path, pytest.fail) == steps.path_of(tmp_path, 3)
    assert names(tmp_path / "checkpoints") == [steps.name_of(1), steps.name_of(3)]


def test_a_writer_that_died_idle_is_started_again(buffers, process):
    process.start(order(1, buffers))
    process.wait()
    os.kill(process._process.pid, signal.SIGKILL)
    process._process.wait()
    process.start(order(2, buffers))
    assert process.wait().committed


def test_signals_that_stop_a_trainer_do_not_stop_its_writer(buffers, process):
    process.start(order(1, buffers))
    process.wait()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process._process.pid, number)
    process.start(order(2, buffers))
    assert process.wait().committed
    assert os.getsid(process._process.pid) != os.getsid(0)


def test_an_order_larger_than_a_pipe_arrives(tmp_path, buffers, process):
    texts = {"trainer.json": json.dumps("x" * 300_000), "config.json": "{}"}
    process.start(order(1, buffers, texts=texts))
    assert process.wait().bytes == 3 * SIZE + 300_004


def test_a_killed_trainer_costs_no_save_that_it_ordered(tmp_path, buffers):
    def train():
        made = Writer(tmp_path, buffers)
        made.start(order(1, buffers))
        made.wait()
        os.kill(made._process.pid, signal.SIGSTOP)
        made.start(order(2, buffers))
        (tmp_path / "writer.pid").write_text(str(made._process.pid))
        os.kill(os.getpid(), signal.SIGKILL)

    assert faults.in_child(train) == -signal.SIGKILL
    still_there = not writer.wait_for_writer(tmp_path, 0.1)
    os.kill(int((tmp_path / "writer.pid").read_text()), signal.SIGCONT)
    assert still_there
    assert writer.wait_for_writer(tmp_path, 60)
    assert value(tmp_path, 2) == 2
    assert steps.newest(tmp_path, pytest.fail) == steps.path_of(tmp_path, 2)


def test_a_writer_ends_with_its_trainer_though_a_loader_worker_holds_its_pipe(tmp_path, buffers):
    def train():
        made = Writer(tmp_path, buffers)
        made.start(order(1, buffers))
        made.wait()
        worker = os.fork()
        if worker == 0:
            time.sleep(60)
            os._exit(0)
        (tmp_path / "worker.pid").write_text(str(worker))
        os.kill(os.getpid(), signal.SIGKILL)

    faults.in_child(train)
    try:
        assert writer.wait_for_writer(tmp_path, 30)
    finally:
        os.kill(int((tmp_path / "worker.pid").read_text()), signal.SIGKILL)


def test_a_folder_without_a_writer_is_free_at_once(tmp_path, buffers):
    assert writer.wait_for_writer(tmp_path, 0)
    with contextlib.closing(Writer(tmp_path, buffers)) as made:
        made.start(order(1, buffers))
        made.wait()
        assert not writer.wait_for_writer(tmp_path, 0)
    assert writer.wait_for_writer(tmp_path, 0)


def test_the_writer_starts_without_heavy_packages():
    heavy = "sorted({'torch', 'numpy', 'pydantic', 'yaml'} & sys.modules.keys())"
    code = f"import sys, auricle.store.writer; sys.exit(str({heavy}) if {heavy} else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- buffers ----------------------------------------------------------------------------------------------------------


def test_a_buffer_is_zero_shared_and_of_the_asked_size():
    with contextlib.closing(Buffer(5000)) as buffer:
        assert bytes(buffer.memory) == bytes(5000)

        def write():
            buffer.memory[4999] = 7

        assert faults.in_child(write) == 0
        assert buffer.memory[4999] == 7


def test_a_buffer_needs_no_memfd(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    with contextlib.closing(Buffer(5000)) as buffer:
        buffer.memory[:] = bytes([3]) * 5000
        assert os.pread(buffer.fd, 5000, 0) == bytes([3]) * 5000


def test_a_buffer_that_an_array_still_uses_closes_without_harm():
    buffer = Buffer(10)
    array = memoryview(buffer.memory)
    buffer.close()
    buffer.close()
    array[0] = 1
    assert array[0] == 1

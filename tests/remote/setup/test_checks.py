"""The doctor's rows: each over facts that are known."""

from dataclasses import replace

import pytest

from auricle.core.config import RemoteConfig
from auricle.remote.setup import checks
from auricle.remote.setup.facts import Gpu, Python, read
from auricle.remote.setup.probes import Tried

BARE = read("folder=/workspace/speech\n", 0, 0)
GPU = Gpu(name="NVIDIA A40", gb=48.3, driver="550.54", capability=(8, 6))
TRIED = Tried(fsyncs=300.0, disk_error=None, network={"pypi.org": "ok"})
ROOT = {"may_install": "env", "commands": frozenset({"apt-get"})}


def python(*version, has_venv=True):
    return Python(path="/usr/bin/python3", version=version, has_venv=has_venv)


@pytest.mark.parametrize(("check", "facts", "result", "what"), [
    (checks.rsync, {}, "fails", "not installed there"),
    (checks.rsync, ROOT, "warning", "not installed there"),
    (checks.rsync, {"commands": frozenset({"rsync"})}, "ok", "here and there"),
    (checks.tmux, {}, "warning", "not installed there"),
    (checks.tmux, {"commands": frozenset({"tmux"})}, "ok", "there"),
    (checks.python, {}, "fails", "none there; expected 3.11"),
    (checks.python, {"pythons": (python(3, 8, 10), python(3, 10, 1))}, "fails", "3.8.10, 3.10.1 there"),
    (checks.python, {"pythons": (python(3, 8, 10), python(3, 12, 1))}, "ok", "3.12.1, /usr/bin/python3"),
    (checks.python, {"pythons": (python(3, 12, 1, has_venv=False),)}, "fails", "without the venv module"),
    (checks.python, {"pythons": (python(3, 12, 1, has_venv=False),), **ROOT}, "warning", "not installed there"),
    (checks.disk, {"disk_gb": 20.0}, "ok", "20.0 GB free at /workspace/speech"),
    (checks.disk, {"disk_gb": 19.9}, "warning", "19.9 GB free"),
    (checks.disk, {"disk_gb": 0.2}, "fails", "0.2 GB free"),
    (checks.disk, {"disk_gb": 90.0, "unwritable": "/workspace"}, "fails", "/workspace cannot be written"),
    (checks.disk, {}, "warning", "no figure"),
    (checks.shared_memory, {"shm_gb": 0.067}, "warning", "0.07 GB, too little"),
    (checks.shared_memory, {"shm_gb": 1.0}, "ok", "1.0 GB"),
    (checks.gpu, {}, "warning", "runs on the processor"),
    (checks.gpu, {"has_nvidia_smi": True}, "fails", "nvidia-smi lists none"),
    (checks.gpu, {"gpus": (GPU, GPU), "cuda": "12.4"}, "ok", "2 × NVIDIA A40 (48.3 GB), driver 550.54, CUDA 12.4"),
    (checks.gpu, {"gpus": (GPU, replace(GPU, name="T4"))}, "ok", "NVIDIA A40 (48.3 GB) and 1 more"),
    (checks.clock, {"skew_seconds": 5.0}, "ok", "as here"),
    (checks.clock, {"skew_seconds": 61.0}, "warning", "61 s ahead of ours"),
    (checks.clock, {"skew_seconds": -7200.0}, "warning", "7,200 s behind ours"),
    (checks.boot_hook, {}, "warning", "nothing goes on with runs"),
    (checks.boot_hook, {"hooks": ("/root/onstart.sh",)}, "ok", "/root/onstart.sh goes on"),
])
def test_a_fact_makes_a_row(check, facts, result, what):
    row = check(replace(BARE, **facts))
    assert (row.result, what in row.what) == (result, True), row
    assert row.todo or row.result == "ok" or check in (checks.gpu, checks.disk)


def test_rsync_that_is_missing_here(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert checks.rsync(BARE).what == "not installed here"


@pytest.mark.parametrize(("gpus", "misfit", "found", "result", "what"), [
    ((), None, None, "ok", "deploy will install torch==2.13.0"),
    ((GPU,), "its driver is 470", None, "fails", "its driver is 470"),
    ((), None, {"torch": "2.13.0", "sees_gpu": False}, "ok", "2.13.0"),
    ((GPU,), None, {"torch": "2.13.0+cu126", "sees_gpu": True}, "ok", "2.13.0+cu126, sees the GPU"),
    ((GPU,), None, {"torch": "2.13.0+cpu", "sees_gpu": False}, "fails", "2.13.0+cpu does not see the GPU"),
    ((), None, {"error": "No module named 'torch'"}, "fails", "No module named 'torch'"),
])
def test_the_build_of_torch(gpus, misfit, found, result, what):
    row = checks.torch(replace(BARE, gpus=gpus), "torch==2.13.0", misfit, found)
    assert (row.result, what in row.what) == (result, True), row


@pytest.mark.parametrize(("tried", "result", "what"), [
    ({}, "ok", "300 writes a second"),
    ({"fsyncs": 20_000.0}, "ok", "20,000"),
    ({"fsyncs": 450_000.0}, "warning", "450,000 writes a second confirmed: memory, or a disk"),
    ({"fsyncs": None}, "warning", "not measured"),
    ({"fsyncs": None, "disk_error": "No space left on device"}, "fails", "No space left on device"),
])
def test_a_disk_that_confirms_more_than_a_disk_can(tried, result, what):
    row = checks.durability(replace(TRIED, **tried))
    assert (row.result, what in row.what) == (result, True), row


def test_the_network():
    assert checks.network(TRIED).result == "ok"
    row = checks.network(replace(TRIED, network={"pypi.org": "ok", "huggingface.co": "no answer within 5 s"}))
    assert (row.result, row.what) == ("warning", "huggingface.co: no answer within 5 s")
    assert checks.network(replace(TRIED, network={})).result == "warning"


@pytest.mark.parametrize(("provided", "power", "provider", "result", "what"), [
    ((), None, "ssh", "warning", "no provider's key"),
    (("RUNPOD_POD_ID",), None, "ssh", "warning", "no provider's key"),
    (("RUNPOD_POD_ID", "RUNPOD_API_KEY"), None, "ssh", "ok", "RunPod: its key is in the machine"),
    (("CONTAINER_ID", "CONTAINER_API_KEY"), None, "vast", "ok", "Vast.ai: its key"),
    ((), {"provider": "vast", "can_stop": True, "can_release": False}, "vast", "ok", "vast: can be stopped from"),
    ((), {"provider": "vast", "can_stop": False, "can_release": False}, "vast", "warning", "no provider's key"),
])
def test_whether_a_machine_can_end_its_costs(provided, power, provider, result, what):
    row = checks.ending(replace(BARE, provided=frozenset(provided)), power, provider)
    assert (row.result, what in row.what) == (result, True), row
    assert result == "ok" or ("release" in row.todo) == (provider != "ssh")


def test_money_and_secrets():
    assert checks.price(None).result == "warning"
    assert checks.price(0.44).what == "0.44 an hour"
    assert checks.budget(RemoteConfig()).result == "warning"
    limited = checks.budget(RemoteConfig(max_cost=10.0, on_limit="release"))
    assert (limited.result, limited.what) == ("ok", "max_cost 10, idle_minutes 30, then release")
    row = checks.secrets(["HF_TOKEN", "WANDB_API_KEY"], {"HF_TOKEN": "hf_secret"})
    assert (row.what, row.result) == ("set here: HF_TOKEN; not set: WANDB_API_KEY", "ok")


def test_one_failing_row_is_enough():
    ok, fails = checks.Check("a", "ok", ""), checks.Check("b", "fails", "")
    assert not checks.worst([ok, checks.Check("c", "warning", "")])
    assert checks.worst([ok, fails])

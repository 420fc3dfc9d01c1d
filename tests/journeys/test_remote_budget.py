"""At its limit a run is saved and mirrored, and its machine ended once, by itself: nobody looks, the laptop is shut."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from auricle.remote.machine.job import HEARTBEAT_SECONDS
from auricle.store import directory, steps
from tests.hosts import give_environment, host, needs_hosts
from tests.journeys.remote import RUN, There, laptop, until
from tests.remote.providers.api_server import Call, Reply
from tests.remote.providers.runpod_server import RunpodServer, serving_runpod

pytestmark = [*needs_hosts, pytest.mark.slow, pytest.mark.long, pytest.mark.root, pytest.mark.timeout(700)]
PRICE = 3600.0
"""An hour, so one a second."""
KEY = "rpa_key-of-the-pod"


@contextlib.contextmanager
def a_pod(folder: Path, mirror: Path):
    """A machine that RunPod's API knows, as RunPod makes it: its name and key are in its environment. The mirror is a
    folder of another one."""
    with serving_runpod(key=KEY) as server, host(folder / "vps") as vps:
        pod_id = rented(server)
        inside = {"RUNPOD_POD_ID": pod_id, "RUNPOD_API_KEY": KEY, "AURICLE_RUNPOD_URL": server.url,
                  "AURICLE_SSH_CONFIG": str(vps.server.client_config)}
        with host(folder / "pod", key_of=vps, environment=inside) as pod:
            here = laptop(folder, vps, mirror=f"ssh://{vps.address}{mirror}")
            there = There(pod.project("speech"))
            give_environment(there.folder)
            here.remote("deploy", *pod.words, "--folder", str(there.folder), "--skip-deps")
            yield server, pod_id, pod, here, there


def rented(server: RunpodServer) -> str:
    """A pod that bears the run's label → its id."""
    with contextlib.suppress(Reply):
        server.handle(Call("POST", "/pods", {}, {"name": f"auricle-{RUN}", "image": "i",
                                                 "gpu": {"id": "NVIDIA RTX A6000"}}, 0.0))
    return next(iter(server.pods))


def ended(server: RunpodServer, pod_id: str) -> str | None:
    """How the machine was ended, if it was."""
    if pod_id not in server.pods:
        return "release"
    return "stop" if server.pods[pod_id]["status"] == "EXITED" else None


@pytest.mark.parametrize("on_limit", ["stop", "release"])
def test_at_its_limit_a_run_is_saved_mirrored_and_its_machine_ended_once(tmp_path, on_limit):
    mirror = tmp_path / "mirror"
    with a_pod(tmp_path, mirror) as (server, pod_id, pod, here, there):
        here.remote("start", *pod.words, "--experiment", "digits", "--price", str(PRICE), "--max-hours", "0.02",
                    "--on-limit", on_limit)
        until(lambda: ended(server, pod_id), "the machine is ended", seconds=180)
        assert ended(server, pod_id) == on_limit
        assert there.exit.code == 75
        newest = steps.all_steps(there.run)[-1]
        assert newest.name == steps.all_steps(mirror / RUN)[-1].name, "what it learned last is elsewhere"
        assert not directory.problems(steps.all_steps(mirror / RUN)[-1])
        assert steps.step_of(newest.name) >= there.step(), "saved where it stopped"
        assert len([call for call in server.calls if call.method != "GET"]) == 1
        limits = there.events("limit", "machine.jsonl")
        assert "max_hours 0.02" in str(limits[0].values)


def test_a_trainer_that_hangs_is_ended_too(tmp_path):
    with a_pod(tmp_path, tmp_path / "mirror") as (server, pod_id, pod, here, there):
        here.remote("start", *pod.words, "--experiment", "digits", "--price", str(PRICE), "--max-cost", "120")
        until(lambda: there.state and (there.state.safe_step or 0) >= 20, "step 20 is safe", seconds=110)
        group = there.runner.trainer
        for process in pod.processes(group):
            os.kill(process, signal.SIGSTOP)
        until(lambda: ended(server, pod_id), "the machine is ended", seconds=290)
        assert ended(server, pod_id) == "stop"
        assert (tmp_path / "mirror" / RUN).is_dir()


def test_with_the_mirror_behind_it_waits_until_the_cost_is_a_fifth_higher(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the mirror's folder should be")
    with a_pod(tmp_path, blocked / "mirror") as (server, pod_id, pod, here, there):
        here.remote("start", *pod.words, "--experiment", "digits", "--price", str(PRICE), "--max-cost", "60")
        until(lambda: there.exit, "the run is ended", seconds=120)
        state = until(lambda: there.state if there.state.cost and there.state.cost >= 62 else None, "it waits")
        assert ended(server, pod_id) is None or state.cost >= 72
        until(lambda: ended(server, pod_id), "at 1.2 × max_cost it is stopped all the same", seconds=60)
        assert ended(server, pod_id) == "stop"
        assert there.state.cost >= 72 - 2 * HEARTBEAT_SECONDS, "by the heartbeat before"

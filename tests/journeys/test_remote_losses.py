"""What is lost when a link or a machine is: nothing, or at most what was not yet mirrored."""

import os
import select
import time

import pytest

from auricle.store import directory, steps
from tests.hosts import give_environment, host, needs_hosts
from tests.journeys.remote import RUN, There, laptop, until
from tests.journeys.remote_cut import cut_everything
from tests.namespaces import needs_namespaces

pytestmark = [*needs_hosts, pytest.mark.slow, pytest.mark.long, pytest.mark.root, pytest.mark.timeout(600)]
LOST_SECONDS = 30
PERIOD_SECONDS = 6.0
OFTEN = ("training.save_steps=null", f"training.save_minutes={PERIOD_SECONDS / 60}")


def deployed(here, machine) -> There:
    there = There(machine.project("speech"))
    give_environment(there.folder)
    here.remote("deploy", *machine.words, "--folder", str(there.folder), "--skip-deps")
    return there


def a_pod(folder, vps):
    """A machine that reaches the VPS, where the mirror is."""
    return host(folder, key_of=vps, environment={"AURICLE_SSH_CONFIG": str(vps.server.client_config)})


def test_a_machine_that_dies_is_noticed_and_an_empty_one_goes_on_from_the_mirror(tmp_path):
    with host(tmp_path / "vps") as vps, a_pod(tmp_path / "one", vps) as one, a_pod(tmp_path / "two", vps) as two:
        here = laptop(tmp_path, vps, mirror=f"ssh://{vps.address}{tmp_path}/mirror")
        there = deployed(here, one)
        here.remote("start", *one.words, "--experiment", "digits", *OFTEN)
        until(lambda: there.state and (there.state.safe_step or 0) >= 40, "step 40 is safe")
        watch = here.popen("remote", "watch", *one.words)
        until(lambda: (here.folder / "outputs" / RUN / "events.jsonl").exists(), "watch follows")
        one.kill()
        died = time.monotonic()
        seen = b""
        while b"lost" not in seen and time.monotonic() - died < LOST_SECONDS:
            if select.select([watch.stdout], [], [], 0.5)[0]:
                seen += os.read(watch.stdout.fileno(), 65536)
        watch.kill()
        watch.communicate()
        assert b"lost" in seen, seen
        reached = max(steps.step_of(path.name) for path in steps.all_steps(tmp_path / "mirror" / RUN))
        assert RUN in here.type("runs"), "what was followed is still here"
        here.remote("status", *one.words, code=8)

        second = deployed(here, two)
        here.remote("start", *two.words, "--experiment", "digits", *OFTEN)
        resumed = until(lambda: second.events("resume"), "the run goes on")
        assert resumed[-1].step == reached
        trained = there.events("train")
        lost = trained[-1].time - max(event.time for event in trained if event.step <= reached)
        assert lost <= 2 * PERIOD_SECONDS, "a period, and the save under way"
        until(lambda: second.step() > reached + 20, "it learns there")
        here.remote("stop", *two.words)
        assert not directory.problems(steps.all_steps(second.run)[-1])


@needs_namespaces
def test_a_link_that_is_cut_in_mid_run_deploy_and_pull_stops_nothing_for_good(tmp_path):
    cut = cut_everything(tmp_path, 40.0)
    assert cut.steps_meanwhile > 20, "the run went on"
    assert cut.codes == {"deploy": 8, "pull": 8, "status": 8}, "each verb said that the machine does not answer"
    assert max(cut.verb_seconds.values()) < LOST_SECONDS
    assert cut.repeated == {"deploy": 0, "pull": 0, "status": 0}
    assert cut.torn == 0

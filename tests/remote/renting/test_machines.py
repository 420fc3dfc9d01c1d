"""What is being paid for: noted machines, forgotten ones, and providers that cannot be asked."""

import pytest

from auricle.core.errors import UsageError
from auricle.remote.project import Project
from auricle.remote.providers import Wanted, runpod, vast
from auricle.remote.providers.parts import http
from auricle.remote.renting.machines import known
from auricle.remote.target import parse
from tests.remote.providers.runpod_server import serving_runpod
from tests.remote.providers.vast_server import serving_vast


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(http, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def pods():
    with serving_runpod() as server:
        yield server


def environ(*servers, **other):
    names = {"/v2": "RUNPOD", "/api": "VAST"}
    return {f"{'AURICLE_' * is_url}{names[server.base]}_{'URL' if is_url else 'API_KEY'}":
            server.url if is_url else server.key for server in servers for is_url in (True, False)} | other


def rent(server, run="tiny"):
    module = runpod if server.base == "/v2" else vast
    provider = module.connect(environ(server))
    return provider.rent(provider.offers(Wanted(gpu="4090"))[0], run=run, public_key="k", disk_gb=50, image=None)


def note(project, rented, address="root@10.0.0.7:22115", **changes):
    return project.remember(parse(address), **{"provider": "runpod", "id": rented.id, "run": rented.run,
                                               "price_per_hour": 0.34, "since": rented.since, **changes})


def test_without_keys_it_is_what_was_noted_and_nobody_is_asked(project):
    project.remember(parse("root@10.0.0.8"), price_per_hour=0.5, since=1000.0)
    (machine,) = known(project, {}, now=1000.0 + 7200)
    assert (machine.provider, machine.id, machine.state, machine.note) == ("ssh", None, "", "")
    assert (machine.address, machine.hours, machine.cost) == ("root@10.0.0.8", 2.0, 1.0)


def test_nothing_is_known_of_an_empty_project(project):
    assert known(project, {}, now=1.0) == []


def test_a_noted_machine_is_as_its_provider_says(project, pods):
    rented = rent(pods)
    note(project, rented)
    (machine,) = known(project, environ(pods), now=rented.since + 5400)
    assert (machine.id, machine.run, machine.state, machine.note) == (rented.id, "tiny", "running", "")
    assert (machine.price_per_hour, machine.hours, machine.cost) == (0.34, 1.5, 0.51)
    assert machine.address == "root@127.0.0.1:1"


def test_a_forgotten_machine_shows_up_with_its_cost(project, pods):
    rented = rent(pods)
    (machine,) = known(project, environ(pods), now=rented.since + 7200)
    assert (machine.provider, machine.id, machine.run) == ("runpod", rented.id, "tiny")
    assert (machine.price_per_hour, machine.hours, machine.cost) == (0.34, 2.0, 0.68)
    assert machine.note == "rented, and not noted here; auricle remote release --run tiny ends it"


def test_a_machine_that_was_rented_by_hand_shows_up_with_its_cost(project, pods):
    rented = rent(pods)
    pods.pods["second"] = {**pods.pods[rented.id], "id": "second", "status": "ERROR"}
    for pod in pods.pods.values():
        pod["name"] = "my-pod"
    first, second = known(project, environ(pods), now=rented.since + 7200)
    assert (first.provider, first.id, first.run, first.cost) == ("runpod", rented.id, None, 0.68)
    assert first.note == "not rented by auricle; auricle remote release root@127.0.0.1:1 ends it"
    assert second.note == "not rented by auricle; its console ends it"


def test_a_machine_that_was_rented_by_hand_and_deployed_to_is_one(project, pods):
    rented = rent(pods)
    pods.pods[rented.id]["name"] = "my-pod"
    project.remember(parse("127.0.0.1:1"), folder="/workspace/speech", run="tiny", price_per_hour=0.5)
    (machine,) = known(project, environ(pods), now=rented.since + 7200)
    assert (machine.provider, machine.id, machine.run, machine.state) == ("runpod", rented.id, "tiny", "running")
    assert (machine.price_per_hour, machine.cost, machine.note) == (0.34, 0.68, "")


def test_a_machine_that_is_noted_twice_costs_once(project, pods):
    rented = rent(pods)
    note(project, rented)
    note(project, rented, "root@10.0.0.7:22116")
    assert [machine.id for machine in known(project, environ(pods), now=rented.since)] == [rented.id]


def test_a_machine_that_is_gone_is_told(project, pods):
    note(project, rent(pods))
    pods.pods.clear()
    (machine,) = known(project, environ(pods), now=2e9)
    assert (machine.state, machine.cost) == ("gone", None)
    assert "no such machine any more" in machine.note


def test_what_a_stopped_machine_cost_is_not_made_up(project, pods):
    note(project, rent(pods))
    for pod in pods.pods.values():
        pod["status"] = "EXITED"
    (machine,) = known(project, environ(pods), now=2e9)
    assert (machine.state, machine.cost, machine.note) == ("stopped", None, "stopped: its disk is still billed")
    assert machine.price_per_hour == 0.34


def test_two_machines_of_a_run_are_told_on_both(project, pods):
    first = rent(pods)
    pods.pods["other"] = {**pods.pods[first.id], "id": "other"}
    note(project, first)
    machines = known(project, environ(pods), now=2e9)
    assert {machine.id for machine in machines} == {first.id, "other"}
    assert all(machine.note.endswith(f"2 machines are paid for tiny: other, {first.id}") for machine in machines)


def test_a_provider_that_cannot_be_asked_is_a_note(project, pods):
    rented = rent(pods)
    note(project, rented)
    with serving_vast() as offers:
        bought = rent(offers)
        pods.fail("GET /pods", 401)
        machines = {machine.provider: machine for machine in known(project, environ(pods, offers), rented.since + 3600)
                    if machine.id}
        assert machines["vast"].id == bought.id
    assert machines["runpod"].id == rented.id
    assert machines["runpod"].cost == 0.34
    assert machines["runpod"].note.startswith("its provider was not asked: RunPod: refused the key")


def test_a_provider_that_cannot_be_asked_has_a_row_of_its_own(project, pods):
    pods.fail("GET /pods", 403)
    (machine,) = known(project, environ(pods), now=2e9)
    assert (machine.provider, machine.id, machine.cost) == ("runpod", None, None)
    assert machine.note.startswith("could not be asked: RunPod: this key may not do GET /pods")


def test_a_noted_machine_of_a_provider_without_a_key(project, pods):
    rented = rent(pods)
    note(project, rented)
    (machine,) = known(project, {}, now=rented.since + 3600)
    assert machine.note == "its provider was not asked: no key of it is set here"
    assert machine.cost == 0.34


def test_a_key_that_is_none_hides_nothing(project, pods):
    rented = rent(pods)
    note(project, rented)
    machines = known(project, environ(pods, VAST_API_KEY="two words"), now=rented.since + 3600)
    assert [(machine.provider, machine.state) for machine in machines] == [("runpod", "running"), ("vast", "")]
    assert "what is set as its key is none" in machines[1].note


def test_a_file_that_is_no_list_of_machines(project):
    project.folder.joinpath("machines.json").write_text("torn")
    with pytest.raises(UsageError, match="not a list of machines"):
        known(project, {}, now=1.0)

"""What is Vast.ai's own: hosts of all kinds, pages of instances, bids, and what an instance knows of itself."""

import pytest

from auricle.remote.providers import ProviderError, Wanted, vast
from auricle.remote.providers.parts import http
from auricle.remote.providers.parts.http import Lost
from auricle.remote.renting.inside import power
from tests.remote.providers.api_server import DROPPED
from tests.remote.providers.vast_server import offer, serving_vast


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(http, "FIRST_WAIT_SECONDS", 0.01)
    with serving_vast() as running:
        yield running


@pytest.fixture
def provider(server):
    return vast.connect({"AURICLE_VAST_URL": server.url, "VAST_API_KEY": server.key})


def rent(provider, run="tiny", **changes):
    wanted = Wanted(gpu="4090", **changes)
    return provider.rent(provider.offers(wanted)[0], run=run, public_key="k", disk_gb=50, image=None)


@pytest.mark.parametrize("unfit", [
    {"verification": "unverified"}, {"rentable": False}, {"rented": True}, {"direct_port_count": 0},
    {"cuda_max_good": 12.4}, {"disk_space": 40.0}, {"num_gpus": 2}, {"geolocation": "Norway, NO"},
    {"dph_total": 0.6}, {"gpu_name": "RTX 3090"}])
def test_what_does_not_fit_is_no_offer(provider, server, unfit):
    server.machines = [offer(1, "RTX 4090", 0.4, **{"dph_total": 0.4, **unfit}), offer(2, "RTX 4090", 0.5)]
    found = provider.offers(Wanted(gpu="4090", max_price=0.55, region="se"))
    assert [one.id for one in found] == ["2"]


def test_reliable_hosts_first_and_others_where_there_is_nothing_else(provider, server):
    server.machines = [offer(1, "RTX 4090", 0.2, reliability=0.9), offer(2, "RTX 4090", 0.5)]
    assert [one.id for one in provider.offers(Wanted(gpu="4090"))] == ["2"]
    del server.machines[1]
    assert [(one.id, one.reliability) for one in provider.offers(Wanted(gpu="4090"))] == [("1", 0.9)]


def test_the_price_is_with_the_disk(provider, server):
    provider.offers(Wanted(gpu="4090", disk_gb=123))
    assert {call.body["allocated_storage"] for call in server.asked("POST /v0/bundles")} == {123}


def test_spot_is_a_bid(provider, server):
    rent(provider, spot=True)
    assert [call.body["type"] for call in server.asked("POST /v0/bundles")] == ["bid"]
    assert server.asked("PUT /v0/asks")[0].body["price"] == 0.38
    server.instances.clear()
    rent(provider)
    assert "price" not in server.asked("PUT /v0/asks")[1].body


def test_instances_come_in_pages(provider, server):
    server.page = 2
    server.machines = [offer(number, "RTX 4090", 0.4) for number in range(5)]
    for run in "abcde":
        rent(provider, run)
    assert {machine.run for machine in provider.find()} == set("abcde")
    assert [machine.run for machine in provider.find("e")] == ["e"]


def test_a_key_that_cannot_be_put_there_now_leaves_no_machine_unheard_of(provider, server):
    server.fail("POST /v0/instances", DROPPED, times=http.ATTEMPTS)
    assert rent(provider).id in server.instances


def test_without_a_port_of_its_own_it_is_reached_through_the_proxy(provider, server):
    rent(provider)
    provider.find()
    for row in server.instances.values():
        row["ports"] = None
    assert [machine.address for machine in provider.find()] == ["root@ssh6.vast.ai:10600"]


@pytest.mark.parametrize(("actual", "state"), [(None, "starting"), ("loading", "starting"), ("running", "running"),
                                               ("exited", "exited"), ("offline", "offline"), ("unknown", "unknown")])
def test_states(provider, server, actual, state):
    server.starts_as = actual
    rent(provider)
    provider.find()
    assert [machine.state for machine in provider.find()] == [state]


def test_an_answer_that_denies_in_a_200(provider, server):
    machine = rent(provider)
    server.fail("DELETE", 200, body={"success": False, "error": "busy", "msg": "machine is busy"})
    with pytest.raises(ProviderError, match="was not ended: machine is busy"):
        provider.release(machine.id, keep_disk=False)
    server.fail("DELETE", 200, body={"success": False, "error": "no_such_instance", "msg": "gone"})
    provider.release(machine.id, keep_disk=False)
    server.fail("DELETE", 200, body="[]")
    with pytest.raises(Lost, match="has not the shape that is known here"):
        provider.release(machine.id, keep_disk=False)


@pytest.mark.parametrize("names", [("CONTAINER_ID",), ()])
@pytest.mark.parametrize("keep_disk", [True, False])
def test_an_instance_ends_itself_with_the_key_that_it_has(provider, server, names, keep_disk):
    machine = rent(provider)
    own = power({"VAST_CONTAINERLABEL": f"C.{machine.id}", "CONTAINER_API_KEY": server.key,
                 "AURICLE_VAST_URL": server.url, **dict.fromkeys(names, machine.id)})
    assert (own.inside.provider, own.inside.id) == ("vast", machine.id)
    own.end(keep_disk=keep_disk)
    assert [row["intended_status"] for row in server.instances.values()] == (["stopped"] if keep_disk else [])


def test_elsewhere_there_is_no_such_power():
    assert power({"CONTAINER_ID": "123", "CONTAINER_API_KEY": "k"}) is None
    assert power({"VAST_CONTAINERLABEL": "C.123"}) is None
    assert power({"VAST_CONTAINERLABEL": "C.abc", "CONTAINER_API_KEY": "k"}) is None

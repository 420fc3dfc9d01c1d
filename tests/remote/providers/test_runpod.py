"""What is RunPod's own: clouds, regions, and what a pod knows of itself."""

import pytest

from auricle.remote.providers import ProviderError, Wanted, runpod
from auricle.remote.providers.parts.http import Denied
from auricle.remote.renting.inside import power
from tests.remote.providers.runpod_server import serving_runpod


@pytest.fixture
def server():
    with serving_runpod() as running:
        yield running


@pytest.fixture
def provider(server):
    return runpod.connect({"AURICLE_RUNPOD_URL": server.url, "RUNPOD_API_KEY": server.key})


def rent(provider, gpu="4090", **changes):
    wanted = Wanted(gpu=gpu, **changes)
    return provider.rent(provider.offers(wanted)[0], run="tiny", public_key="ssh-rsa k", disk_gb=5, image=None)


def test_offers_of_both_clouds_with_the_cuda_that_is_free(provider, server):
    offers = provider.offers(Wanted(gpu="4090", gpus=2))
    assert [(offer.region, offer.gpus, offer.price_per_hour) for offer in offers] == [("community", 2, 0.68),
                                                                                      ("secure", 2, 1.38)]
    assert {(offer.gpu, offer.vram_gb, offer.cuda) for offer in offers} == {("RTX 4090", 24, "12.8")}
    assert all(call.query["minCudaVersion"] == "12.6" for call in server.asked("GET /catalog"))


def test_more_gpus_than_a_machine_of_that_cloud_has(provider):
    assert [offer.region for offer in provider.offers(Wanted(gpu="4090", gpus=5))] == ["secure"]
    assert provider.offers(Wanted(gpu="4090", gpus=9)) == []


def test_a_region_is_a_data_centre_that_has_it(provider, server):
    assert provider.offers(Wanted(gpu="4090", region="EU-RO")) == []
    offers = provider.offers(Wanted(gpu="4090", region="kansas"))
    assert {offer.region for offer in offers} == {"US-KS-2"}
    provider.rent(offers[0], run="tiny", public_key="k", disk_gb=50, image=None)
    assert server.asked("POST /pods")[0].body["dataCenterIds"] == ["US-KS-2"]


def test_a_pod_has_its_volume_at_workspace_and_ssh(provider, server):
    rent(provider)
    body = server.asked("POST /pods")[0].body
    assert body["mounts"] == {"persistent": {"size": 10, "path": "/workspace"}}
    assert body["ports"] == ["22/tcp"]
    assert body["gpu"]["minCudaVersion"] == "12.6"


def test_a_pod_without_a_public_port_has_no_address(provider, server):
    server.host = None
    rent(provider)
    assert [machine.address for machine in provider.find()] == [None]


def test_spot_and_amd_are_told(provider):
    with pytest.raises(ProviderError, match="rents no interruptible machines"):
        provider.offers(Wanted(gpu="4090", spot=True))
    with pytest.raises(ProviderError, match="has no GPU 'MI300X'"):
        provider.offers(Wanted(gpu="MI300X"))


def test_a_stop_that_is_not_possible_now_is_told(provider, server):
    machine = rent(provider)
    server.fail("POST /pods", 409)
    with pytest.raises(Denied, match="409"):
        provider.release(machine.id, keep_disk=True)


def test_the_account_without_money_is_told_and_no_other_offer_tried(provider, server):
    server.fail("POST /pods", 402)
    with pytest.raises(ProviderError, match="wants to be paid first"):
        rent(provider)


@pytest.mark.parametrize("keep_disk", [True, False])
def test_a_pod_ends_itself_with_the_key_that_it_has(provider, server, keep_disk):
    machine = rent(provider)
    own = power({"RUNPOD_POD_ID": machine.id, "RUNPOD_API_KEY": server.key, "AURICLE_RUNPOD_URL": server.url})
    assert (own.inside.provider, own.inside.id, own.inside.can_stop, own.inside.can_release) == (
        "runpod", machine.id, True, True)
    own.end(keep_disk=keep_disk)
    assert [pod["status"] for pod in server.pods.values()] == (["EXITED"] if keep_disk else [])


def test_elsewhere_there_is_no_such_power():
    assert power({}) is None
    assert power({"RUNPOD_POD_ID": "abc"}) is None
    assert power({"RUNPOD_API_KEY": "a-key-on-a-laptop"}) is None

"""What is Lambda Cloud's own: types in regions, keys by name, and no power over itself."""

import pytest

from auricle.remote.providers import ProviderError, Wanted, lambda_cloud
from auricle.remote.renting.inside import power
from tests.remote.providers.lambda_cloud_server import serving_lambda


@pytest.fixture
def server():
    with serving_lambda() as running:
        yield running


@pytest.fixture
def provider(server):
    return lambda_cloud.connect({"AURICLE_LAMBDA_URL": server.url, "LAMBDA_API_KEY": server.key})


def rent(provider, run="tiny", key="ssh-ed25519 AAAA me", image=None):
    return provider.rent(provider.offers(Wanted(gpu="a100"))[0], run=run, public_key=key, disk_gb=50, image=image)


def test_offers_are_of_that_many_gpus_in_each_region_that_has_them(provider, server):
    server.regions.append({"name": "europe-central-1", "description": "Germany"})
    offers = provider.offers(Wanted(gpu="a100"))
    assert {(offer.id, offer.vram_gb, offer.price_per_hour) for offer in offers} == {
        ("gpu_1x_a100_sxm4/us-west-1", 40.0, 1.29), ("gpu_1x_a100_sxm4/europe-central-1", 40.0, 1.29)}
    assert [offer.id for offer in provider.offers(Wanted(gpu="A100", gpus=8, region="germany"))] == [
        "gpu_8x_a100/europe-central-1"]
    assert provider.offers(Wanted(gpu="a100", disk_gb=1000)) == []


def test_a_key_is_put_into_the_account_once(provider, server):
    rent(provider)
    rent(provider, "second", "ssh-ed25519 AAAA me@elsewhere")
    assert [key["public_key"] for key in server.keys] == ["ssh-rsa AAAAother x", "ssh-ed25519 AAAA me"]
    assert len({tuple(row["ssh_key_names"]) for row in server.instances.values()}) == 1


def test_an_image_is_a_family(provider, server):
    rent(provider, image="lambda-stack-24-04")
    assert server.asked("POST /instance-operations/launch")[0].body["image"] == {"family": "lambda-stack-24-04"}


def test_an_instance_without_the_time_as_a_tag(provider, server):
    rent(provider)
    for row in server.instances.values():
        row["tags"] = []
    assert [machine.since for machine in provider.find()] == [0.0]


def test_an_instance_that_is_on_its_way_out_is_paid_no_more(provider, server):
    rent(provider)
    for row in server.instances.values():
        row["next"] = row["status"] = "terminating"
    assert provider.find() == []


def test_spot_is_told(provider):
    with pytest.raises(ProviderError, match="rents no interruptible machines"):
        provider.offers(Wanted(gpu="a100", spot=True))


def test_a_quota_is_told_in_lambdas_own_words(provider, server):
    server.fail("POST /instance-operations/launch", 400, body={"error": {
        "code": "global/quota-exceeded", "message": "Quota exceeded.", "suggestion": "Contact Support."}})
    with pytest.raises(ProviderError, match=r"Lambda Cloud: Quota exceeded\. Contact Support\. \(400") as raised:
        rent(provider)
    assert type(raised.value).__name__ == "Denied"


def test_a_machine_has_no_power_over_itself():
    assert power({"LAMBDA_API_KEY": "k", "HOSTNAME": "129-146-33-218"}) is None

"""A host that was named: nothing to rent, nothing to release."""

import pytest

from auricle.remote.providers import ProviderError, Wanted, ssh


def test_it_rents_nothing_and_releases_nothing():
    provider = ssh.connect({})
    assert provider.find() == provider.find(foreign=True) == []
    assert not provider.can_stop
    with pytest.raises(ProviderError, match="--provider runpod, vast or lambda_cloud"):
        provider.offers(Wanted(gpu="4090"))
    with pytest.raises(ProviderError, match="rents nothing"):
        provider.rent(None, run="tiny", public_key="k", disk_gb=50, image=None)
    for keep_disk in (True, False):
        with pytest.raises(ProviderError, match="cannot be released from here"):
            provider.release("10.0.0.7", keep_disk=keep_disk)
    assert ssh.inside({"HOSTNAME": "x"}) is None

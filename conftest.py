"""Puts the repository root on the import path, so that tests can share `tests.paths`, and keeps what tests fetch out of
the user's cache."""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("loaded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded")  # other tests run beside: a pause says nothing about the code


@pytest.fixture(scope="session", autouse=True)
def _a_cache_of_the_tests(tmp_path_factory):
    before = os.environ.get("AURICLE_CACHE")
    os.environ["AURICLE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("AURICLE_CACHE")
    if before is not None:
        os.environ["AURICLE_CACHE"] = before

"""A rented machine, however its address is typed."""

import pytest

from auricle.remote.providers import Rented
from auricle.remote.target import parse


@pytest.mark.parametrize(("address", "typed", "is_there"), [
    ("root@10.0.0.7:22115", "root@10.0.0.7:22115", True), ("root@10.0.0.7:22115", "10.0.0.7:22115", True),
    ("ubuntu@10.0.0.7:22", "10.0.0.7", True), ("root@10.0.0.7:22115", "10.0.0.7", False),
    ("root@10.0.0.7:22115", "10.0.0.8:22115", False), (None, "10.0.0.7", False)])
def test_where_it_is(address, typed, is_there):
    rented = Rented(id="1", run="tiny", state="running", address=address, price_per_hour=0.4, since=0.0)
    assert rented.is_at(parse(typed)) == is_there

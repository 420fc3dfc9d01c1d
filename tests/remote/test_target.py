"""Addresses as people type them."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.errors import UsageError
from auricle.remote import target
from auricle.remote.target import Target, jumps, parse, parse_all, parse_first


def test_the_examples_hold():
    assert doctest.testmod(target).failed == 0


@pytest.mark.parametrize(("words", "expected"), [
    (["ssh.runpod.io", "22115"], Target(host="ssh.runpod.io", port=22115)),
    (["root@82.141.118.40:2674"], Target(host="82.141.118.40", user="root", port=2674)),
    (["root@82.141.118.40", "2674"], Target(host="82.141.118.40", user="root", port=2674)),
    (["my-pod"], Target(host="my-pod")),
    (["root@[2001:db8::7]:22"], Target(host="2001:db8::7", user="root", port=22)),
])
def test_each_form_of_an_address(words, expected):
    assert parse_all(words) == [expected]
    assert parse_first([*words, "training.max_steps=10"]) == (expected, ["training.max_steps=10"])


@pytest.mark.parametrize("words", [["22115"], ["host:0"], ["host", "70000"], ["host:22", "23"], ["a b"], ["-oProxy"],
                                   ["user@"], ["host:ssh"], [""], ["a@b@c"]])
def test_what_is_no_address_is_refused(words):
    with pytest.raises(UsageError, match=r"target .*expected"):
        parse_all(words)


def test_no_machine_at_all_is_refused():
    with pytest.raises(UsageError, match="no machine is named; expected HOST PORT"):
        parse_first([])


def test_overrides_after_a_machine_stay_as_typed():
    machine, rest = parse_first(["pod", "22", "training.run_name=two words", "7"])
    assert (machine.port, rest) == (22, ["training.run_name=two words", "7"])


def test_a_chain_of_jumps_is_reached_from_the_front():
    last = jumps("me@first:1,second")
    assert (last.host, last.jump.host, last.jump.port, last.jump.jump) == ("second", "first", 1, None)
    assert parse_all(["pod"], "me@first:1,second")[0].via == "me@first:1,second"


users = st.none() | st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
hosts = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,10}[a-z0-9])?", fullmatch=True).filter(lambda host: not host.isdigit())


@given(user=users, host=hosts, port=st.none() | st.integers(1, 65535))
def test_what_a_target_prints_is_read_as_itself(user, host, port):
    there = Target(host=host, user=user, port=port)
    assert parse(str(there)) == there

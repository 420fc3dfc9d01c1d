"""`auricle remote start` as it is typed: whose price and whose time a budget counts by."""

import json
import shutil
import time

import pytest
from typer.testing import CliRunner

from auricle.cli.main import app
from auricle.remote.target import parse
from tests.hosts import host, laptop, needs_hosts, use

__all__ = ["laptop"]
pytestmark = needs_hosts
STAND_IN = """#!/bin/sh
cat > "$HOME/told"
echo '{"session": null, "boot_hook": "cron", "resumed": false}'
"""
NOW = time.time()


def typed(*words):
    done = CliRunner().invoke(app, ["remote", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def pods(tmp_path, monkeypatch):
    """Two machines, which keep what they are told."""
    with host(tmp_path / "a") as one, host(tmp_path / "b", key_of=one) as other:
        use(monkeypatch, one)
        for machine in (one, other):
            python = machine.project("speech") / ".venv" / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.write_text(STAND_IN)
            python.chmod(0o755)
        yield one, other


def note(laptop, machine, **facts):
    laptop.remember(machine.target, folder=str(machine.project("speech")), **facts)


def told(machine):
    """The budget, and the words that say a price."""
    job = json.loads((machine.home / "told").read_text())["job"]
    return job["budget"], [word for word in job["train"] if "price" in word]


def prices(laptop):
    return {machine.address: machine.price_per_hour for machine in laptop.machines()}


def test_each_of_several_machines_has_its_own_price_and_time(pods, laptop):
    one, other = pods
    note(laptop, one, price_per_hour=0.4, since=NOW - 3600, run="an earlier one")
    note(laptop, other, price_per_hour=2.5, since=NOW - 36000, provider="vast", id="77")
    shown = typed("start", *one.words, "--node", other.address, "-e", "quickstart", "--max-cost", "5")
    for machine, price, since in ((one, 0.4, NOW - 3600), (other, 2.5, NOW - 36000)):
        budget, words = told(machine)
        assert (budget["price_per_hour"], budget["since"], budget["max_cost"]) == (price, since, 5.0)
        assert words == [f"training.price_per_hour={price}"]
        assert f"    {machine.address}: 5 at {price} an hour, 30 min" in shown
    assert "  each of 2 machines keeps a budget of its own:\n" in shown
    assert prices(laptop) == {one.address: 0.4, other.address: 2.5}


def test_a_price_that_is_not_known_takes_none_away(pods, laptop):
    one, other = pods
    note(laptop, one)
    note(laptop, other, price_per_hour=2.5)
    typed("start", *one.words, "--node", other.address, "-e", "quickstart")
    assert (told(one)[1], told(other)[1]) == ([], ["training.price_per_hour=2.5"])
    assert prices(laptop) == {one.address: None, other.address: 2.5}
    typed("start", *one.words, "--node", other.address, "-e", "quickstart", "--price", "3")
    assert [told(machine)[0]["price_per_hour"] for machine in pods] == [3.0, 3.0]
    assert prices(laptop) == {one.address: 3.0, other.address: 3.0}


def test_a_machine_that_is_new_here_is_noted_with_the_time_that_its_budget_has(pods, laptop):
    one, _ = pods
    shown = typed("start", *one.words, "-e", "quickstart", "--folder", str(one.project("speech")))
    assert [machine.since for machine in laptop.machines()] == [told(one)[0]["since"]]
    assert "  budget: 30 min without training" in shown


def test_a_machine_that_was_noted_with_its_user_is_the_same_without(pods, laptop):
    one, _ = pods
    laptop.remember(parse(f"root@{one.address}"), folder=str(one.project("speech")), price_per_hour=0.44,
                    since=NOW - 36000, run="an earlier one")
    typed("start", *one.words, "-e", "quickstart", "--max-cost", "50")
    assert (told(one)[0]["price_per_hour"], told(one)[0]["since"]) == (0.44, NOW - 36000)
    assert prices(laptop) == {f"root@{one.address}": 0.44}


def test_another_machine_at_an_old_address_does_not_pay_for_the_one_before(pods, laptop):
    one, _ = pods
    note(laptop, one, price_per_hour=0.44, since=NOW - 20 * 86400, run="old")
    (laptop.root / "train.py").write_text("")
    assert "new machine" not in typed("deploy", *one.words, "--skip-deps")
    assert laptop.machine(one.target).since == NOW - 20 * 86400
    shutil.rmtree(one.project("speech"))
    assert "What was deployed to this address is gone" in typed("deploy", *one.words, "--skip-deps")
    known = laptop.machine(one.target)
    assert (known.since >= NOW, known.price_per_hour, known.run) == (True, None, None)
    assert "new machine" not in typed("deploy", *one.words, "--skip-deps")
    assert laptop.machine(one.target) == known


def test_a_machine_that_was_rented_from_here_keeps_the_time_of_its_renting(pods, laptop):
    one, _ = pods
    note(laptop, one, price_per_hour=0.44, since=NOW - 3600, provider="vast", id="77")
    (laptop.root / "train.py").write_text("")
    shutil.rmtree(one.project("speech"))
    typed("deploy", *one.words, "--skip-deps")
    known = laptop.machine(one.target)
    assert (known.since, known.price_per_hour) == (NOW - 3600, 0.44)


def test_a_folder_that_another_user_does_not_see_makes_no_new_machine(pods, laptop):
    one, _ = pods
    laptop.remember(parse(f"dev@{one.address}"), folder="/home/dev/speech", price_per_hour=0.44, since=NOW - 3600)
    (laptop.root / "train.py").write_text("")
    assert "new machine" not in typed("deploy", *one.words, "--skip-deps", "--folder", str(one.project("speech")))
    [known] = laptop.machines()
    assert (known.since, known.price_per_hour) == (NOW - 3600, 0.44)

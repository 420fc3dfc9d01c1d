"""From an offer to steps on a machine that answers: a fake provider whose machine is a real SSH server."""

import getpass
import subprocess
from dataclasses import replace

import pytest

from auricle.core.errors import UsageError
from auricle.remote.connection import Refused, RemoteError
from auricle.remote.providers import ProviderError, Wanted, vast
from auricle.remote.providers.parts import http, rentals
from auricle.remote.providers.parts.http import Lost
from auricle.remote.renting import await_ssh
from auricle.remote.renting.launch import launch, offers
from auricle.remote.renting.lease import Order
from auricle.remote.renting.public_key import public_key
from auricle.remote.target import parse
from tests.hosts import host, laptop, needs_hosts, use
from tests.remote.providers.api_server import ACCEPTED
from tests.remote.providers.vast_server import offer, serving_vast

__all__ = ["laptop"]
pytestmark = needs_hosts
END = "auricle remote release --run tiny"
MAY_COST = (f"a machine may have been rented at vast, and cost: auricle remote list shows it, and this ends it: {END}; "
            "the provider's console shows it too")


class Broken(RemoteError):
    """A step that fails."""


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(await_ssh, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(http, "FIRST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(rentals, "LOOK_SECONDS", 0.02)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    with host(tmp_path / "machine") as running:
        use(monkeypatch, running)
        yield running


class Laptop:
    """Who launches; `said` are the lines, and `when` what happens as one is said: beginning → action."""

    def __init__(self, server, project):
        self.server, self.project = server, project
        self.provider = vast.connect({"AURICLE_VAST_URL": server.url, "VAST_API_KEY": server.key})
        self.said, self.when, self.placed = [], {}, []

    def say(self, line):
        self.said.append(line)
        for beginning, action in list(self.when.items()):
            if line.startswith(beginning):
                action()

    def launch(self, *steps, providers=None, **changes):
        order = Order(**{"run": "tiny", "wanted": Wanted(gpu="4090"), "public_key": "ssh-ed25519 AAAA me",
                         "ending": lambda price: f"at {price}", **changes})
        return launch(order, providers or [self.provider], self.project, steps or [self.placed.append], self.say)

    def elsewhere(self, run="tiny"):
        """Someone with the same key rents a machine for the run. → its id"""
        other = vast.connect({"AURICLE_VAST_URL": self.server.url, "VAST_API_KEY": self.server.key})
        return other.rent(other.offers(Wanted(gpu="4090"))[-1], run=run, public_key="theirs", disk_gb=50,
                          image=None).id

    def lines(self, beginning):
        return [line for line in self.said if line.startswith(beginning)]

    @property
    def rented(self):
        return [call.path for call in self.server.asked("PUT /v0/asks")]

    @property
    def noted(self):
        return self.project.machines()


@pytest.fixture
def user(machine, laptop):
    with serving_vast() as server:
        server.host = (machine.server.address, machine.server.port, getpass.getuser())
        yield Laptop(server, laptop)


def fail(place):
    raise Broken("it broke")


def interrupt(place):
    raise KeyboardInterrupt


def test_rents_waits_and_takes_the_steps_in_order(user, machine):
    took = []
    place = user.launch(lambda place: took.append(("first", place.connection.check("echo there"))),
                        lambda place: took.append(("second", str(place.connection.target))))
    assert took == [("first", "there\n"), ("second", f"root@{machine.address}")]
    (id_,) = user.server.pods
    (noted,) = user.noted
    assert (noted.address, noted.provider, noted.id, noted.run) == (f"root@{machine.address}", "vast", id_, "tiny")
    assert noted.price_per_hour == 0.38
    assert noted.since == pytest.approx(user.server.pods[id_]["start_date"], abs=30)
    assert place.connection.target == noted.target
    assert user.rented == ["/v0/asks/1001/"]
    assert user.said[:3] == [
        "vast: 1 x RTX 4090, 24 GB, $0.38 an hour (Sweden, SE, reliability 0.995, CUDA 12.8)",
        "  ends by itself: at 0.38",
        f"rented {id_} at vast, labelled for run tiny: from now on it costs $0.38 an hour"]
    assert user.said[-1].startswith(f"root@{machine.address}: answers after 0:")


def test_what_was_noted_of_an_earlier_machine_at_that_address_holds_no_more(user, machine):
    user.project.remember(parse(f"root@{machine.address}"), folder="/root/old", provider="runpod", id="old", run="old")
    place = user.launch()
    assert user.project.machine(place.connection.target).folder is None


def test_is_noted_before_it_is_waited_for(user):
    user.server.starts_as = "loading"
    noted = []

    def look():
        noted.extend(user.noted)
        for row in user.server.pods.values():
            row["next"] = "running"

    user.when["waiting for ssh: starting"] = look
    user.launch()
    assert [(machine.provider, machine.id, machine.run) for machine in noted] == [("vast", *user.server.pods, "tiny")]
    assert len(user.noted) == 1


def test_a_machine_that_disappears_is_followed_by_the_next_offer(user):
    user.server.starts_as = "loading"

    def vanish():
        user.server.pods.clear()
        user.server.starts_as = "running"
        user.when.clear()

    user.when["waiting for ssh: starting"] = vanish
    user.launch()
    assert user.rented == ["/v0/asks/1001/", "/v0/asks/1000/"]
    assert [machine.id for machine in user.noted] == [*user.server.pods]
    (gone,) = [line for line in user.said if "has disappeared from vast" in line]
    assert gone.split(":")[0] == user.lines("rented ")[0].split()[1]


def test_machines_that_do_not_come_up_are_released_three_at_most(user, monkeypatch):
    monkeypatch.setattr(await_ssh, "UP_SECONDS", 0.3)
    user.server.machines.append(offer(2000, "RTX 4090", 0.60))
    user.server.starts_as = "loading"
    with pytest.raises(ProviderError, match="tiny: no machine: 3 machines did not come up"):
        user.launch()
    assert len(user.rented) == 3
    assert not user.server.pods
    assert user.noted == []
    assert len([line for line in user.said if "did not come up at vast within" in line]) == 3
    assert len(user.lines("released ")) == 3


def test_a_machine_whose_ssh_never_answers_is_released(user, monkeypatch, machine):
    monkeypatch.setattr(await_ssh, "UP_SECONDS", 0.5)
    user.server.machines = user.server.machines[1:2]
    machine.kill()
    with pytest.raises(ProviderError, match="did not come up"):
        user.launch()
    assert not user.server.pods
    assert user.lines("waiting for ssh: root@")


def test_a_crashed_container_is_released_at_once(user):
    user.server.machines = user.server.machines[1:2]
    user.server.starts_as = "exited"
    with pytest.raises(ProviderError, match="1 machines did not come up"):
        user.launch()
    assert not user.server.pods


def test_offers_that_others_took_are_passed_over(user):
    user.server.fail("PUT /v0/asks/1001", 410)
    user.launch()
    assert user.rented == ["/v0/asks/1001/", "/v0/asks/1000/"]
    assert len(user.server.pods) == 1
    assert [line for line in user.said if line.endswith("taking the next offer")]


def test_all_offers_taken(user):
    user.server.is_full = True
    with pytest.raises(ProviderError, match="all offers were taken by others"):
        user.launch()
    assert user.noted == []


def test_what_fails_afterwards_leaves_no_bill_in_silence(user):
    with pytest.raises(Broken):
        user.launch(fail)
    (id_,) = user.server.pods
    assert user.said[-1] == (f"{id_} at vast goes on costing $0.38 an hour. The same command goes on with it; this "
                             f"ends it: {END}")
    assert len(user.noted) == 1


def test_what_fails_afterwards_is_released_where_the_order_says_so(user):
    with pytest.raises(Broken):
        user.launch(fail, release_on_failure=True)
    assert not user.server.pods
    assert user.noted == []
    assert user.lines("released ")


def test_a_release_that_fails_is_told(user):
    user.server.fail("DELETE /v0/instances", 400)
    with pytest.raises(Broken):
        user.launch(fail, release_on_failure=True)
    assert len(user.server.pods) == 1
    assert user.said[-1].endswith(END)
    assert user.said[-2].startswith("it could not be released: Vast.ai:")


@pytest.mark.parametrize("release", [True, False])
def test_ctrl_c_in_a_step(user, release):
    with pytest.raises(KeyboardInterrupt):
        user.launch(interrupt, release_on_failure=release)
    assert len(user.server.pods) == (0 if release else 1)
    assert release or user.said[-1].endswith(END)


@pytest.mark.parametrize("release", [True, False])
def test_ctrl_c_while_it_waits(user, release):
    user.server.starts_as = "loading"
    user.when["waiting for ssh"] = lambda: interrupt(None)
    with pytest.raises(KeyboardInterrupt):
        user.launch(release_on_failure=release)
    assert len(user.server.pods) == (0 if release else 1)
    assert len(user.noted) == (0 if release else 1)
    assert release or user.said[-1].endswith(END)


@pytest.mark.parametrize("release", [True, False])
def test_ctrl_c_while_it_rents(user, monkeypatch, release):
    """The provider has done it, and nobody heard so."""
    buy = user.provider._buy

    def bought_and_interrupted(*arguments):
        buy(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(user.provider, "_buy", bought_and_interrupted)
    with pytest.raises(KeyboardInterrupt):
        user.launch(release_on_failure=release)
    assert len(user.server.pods) == (0 if release else 1)
    assert release or user.said[-1].endswith(END)


def fail_to_be_listed(user, times=50):
    user.server.fail("GET /v1/instances", 400, times=times)


def test_a_renting_whose_answer_is_lost_is_told_where_nobody_can_be_asked(user, monkeypatch):
    buy = user.provider._buy

    def bought_and_lost(*arguments):
        fail_to_be_listed(user)
        return buy(*arguments)

    monkeypatch.setattr(user.provider, "_buy", bought_and_lost)
    user.server.fail("PUT /v0/asks", ACCEPTED)
    with pytest.raises(Lost, match="looks again before it rents"):
        user.launch()
    assert len(user.server.pods) == len(user.rented) == 1
    assert user.said[-1] == MAY_COST


@pytest.mark.parametrize("patience", [True, False])
def test_ctrl_c_while_it_rents_and_nobody_can_be_asked(user, monkeypatch, patience):
    """Also where the user does not wait for the look after it."""
    find = user.provider.find

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    def buy(*_):
        fail_to_be_listed(user)
        monkeypatch.setattr(user.provider, "find", find if patience else interrupted)
        raise KeyboardInterrupt

    monkeypatch.setattr(user.provider, "_buy", buy)
    with pytest.raises(KeyboardInterrupt):
        user.launch()
    assert user.said[-1] == MAY_COST


def test_an_answer_to_renting_that_cannot_be_read_is_told(user):
    user.server.fail("PUT /v0/asks", 200, body={"success": True})
    with pytest.raises(Lost, match="has not the shape that is known here \\(no 'new_contract'\\)"):
        user.launch()
    assert user.said[-1] == MAY_COST


@pytest.mark.parametrize(("begins", "status"), [("PUT /v0/asks", 402), ("PUT /v0/asks", 401)])
def test_a_renting_that_is_refused_costs_nothing(user, begins, status):
    user.server.fail(begins, status)
    with pytest.raises(ProviderError):
        user.launch()
    assert user.said[-1].startswith("  ends by itself")


def looks_once(user, monkeypatch, action):
    """Something happens elsewhere after the first look and before the second."""
    offers = user.provider.offers

    def offered(wanted):
        found = offers(wanted)
        action()
        return found

    monkeypatch.setattr(user.provider, "offers", offered)


def bought_between(user, monkeypatch, rented):
    """Someone rents it after the last look of ours and before the one that comes with the renting."""
    rent = user.provider.rent

    def late(*arguments, **options):
        rented.append(user.elsewhere())
        return rent(*arguments, **options)

    monkeypatch.setattr(user.provider, "rent", late)


@pytest.mark.parametrize("when", ["before the last look", "after it"])
@pytest.mark.parametrize("comes_up", [True, False])
def test_a_machine_that_another_one_rented_meanwhile_is_never_released(user, monkeypatch, when, comes_up):
    theirs = []
    if when == "after it":
        bought_between(user, monkeypatch, theirs)
    else:
        looks_once(user, monkeypatch, lambda: theirs.append(user.elsewhere()))
    if not comes_up:
        monkeypatch.setattr(await_ssh, "UP_SECONDS", 0.3)
        user.server.starts_as = "loading"
    with pytest.raises(Broken if comes_up else ProviderError):
        user.launch(fail, release_on_failure=True)
    assert [*user.server.pods] == theirs
    assert len([line for line in user.said if line.endswith("going on with it")]) == 1
    assert user.said[-1].startswith(f"{theirs[0]} at vast goes on costing")
    assert not user.lines("released ")
    assert len(user.rented) == 1
    (noted,) = user.noted
    assert (noted.id, noted.rented_here) == (theirs[0], False)


def test_ctrl_c_as_renting_begins_releases_no_machine_that_another_one_rented_meanwhile(user, monkeypatch):
    theirs = []
    looks_once(user, monkeypatch, lambda: theirs.append(user.elsewhere()))
    monkeypatch.setattr(user.provider, "rent", lambda *_, **__: interrupt(None))
    with pytest.raises(KeyboardInterrupt):
        user.launch(interrupt, release_on_failure=True)
    assert [*user.server.pods] == theirs


def test_who_rented_a_machine_is_noted(user):
    with pytest.raises(Broken):
        user.launch(fail)
    assert [machine.rented_here for machine in user.noted] == [True]
    with pytest.raises(Broken):
        user.launch(fail)
    assert [machine.rented_here for machine in user.noted] == [True]


def moved(user, machine, **facts):
    """The run's machine, which was deployed to at another address than it has now. → its id"""
    id_ = user.elsewhere()
    facts = {"folder": "/root/speech", "since": 1000.0, "rented_here": True, **facts}
    user.project.remember(replace(parse("root@127.0.0.1:2"), jump=facts.pop("jump", None)), provider="vast", id=id_,
                          run="tiny", price_per_hour=0.52, **facts)
    return id_


def test_a_known_machine_at_a_new_address_is_noted_once_with_what_is_known_of_it(user, machine):
    id_ = moved(user, machine)
    with pytest.raises(Broken):
        user.launch(fail)
    (noted,) = user.noted
    assert (noted.address, noted.id, noted.folder) == (f"root@{machine.address}", id_, "/root/speech")
    assert noted.rented_here
    assert not user.rented[1:]


def test_a_known_machine_that_has_no_address_yet_stays_as_it_is_noted(user, machine):
    moved(user, machine)
    user.server.starts_as = None
    before = user.noted
    for row in user.server.pods.values():
        row["actual_status"] = row["next"] = "loading"
    user.when["waiting for ssh: starting"] = lambda: interrupt(None)
    with pytest.raises(KeyboardInterrupt):
        user.launch()
    (noted,) = user.noted
    assert (noted.address, noted.folder) == (before[0].address, "/root/speech")


def test_a_known_machine_keeps_the_way_to_it_and_its_age(user, machine):
    moved(user, machine, jump=machine.target)
    for row in user.server.pods.values():
        row["start_date"] = None
    place = user.launch()
    assert place.connection.target.via == machine.address
    (noted,) = user.noted
    assert (noted.jump, noted.since) == (machine.address, 1000.0)


@pytest.mark.parametrize("login", ["root@", ""])
def test_what_was_deployed_by_hand_to_a_machine_that_is_found_stays_known(user, machine, login):
    user.elsewhere()
    for row in user.server.pods.values():
        row["actual_status"] = row["next"] = "running"
    user.project.remember(parse(f"{login}{machine.address}"), folder="/root/speech")
    user.launch()
    (noted,) = user.noted
    assert (noted.provider, noted.folder, noted.rented_here) == ("vast", "/root/speech", False)


def test_the_same_command_goes_on_with_the_machine(user):
    with pytest.raises(Broken):
        user.launch(fail)
    user.launch(release_on_failure=True)
    assert len(user.rented) == 1
    assert len(user.placed) == 1
    assert len(user.noted) == 1
    (id_,) = user.server.pods
    assert f"{id_} at vast is the machine of tiny already, at $0.38 an hour: going on with it" in user.said


def test_a_machine_that_was_there_before_is_never_released_by_a_failure(user):
    """It may hold the run's checkpoints."""
    user.launch()
    with pytest.raises(Broken):
        user.launch(fail, release_on_failure=True)
    assert len(user.server.pods) == 1
    assert user.said[-1].endswith(END)


def test_a_stopped_machine_of_the_run_is_told_of(user):
    user.launch()
    (id_,) = user.server.pods
    user.provider.release(id_, keep_disk=True)
    with pytest.raises(ProviderError, match=rf"{id_}, the machine of tiny, is stopped.*{END}"):
        user.launch()
    assert len(user.rented) == 1


def test_the_newest_of_two_machines_is_taken_and_the_other_told(user):
    user.launch()
    user.launch(run="other")
    first, second = user.server.pods
    user.server.pods[second]["label"] = "auricle-tiny"
    user.server.pods[second]["start_date"] += 5
    user.launch()
    assert f"2 machines of tiny are paid for at vast: taking the newest, {second}; the others: {first}" in user.said


def test_two_launches_of_a_run_at_once_rent_one_machine(user):
    def again(place):
        with pytest.raises(UsageError, match="tiny: another auricle remote launch"):
            user.launch()
        user.placed.append(place)

    user.launch(again)
    assert len(user.placed) == len(user.rented) == 1


def test_a_passing_error_of_the_provider_while_waiting(user):
    user.when["rented"] = lambda: user.server.fail("GET /v1/instances", 400)
    user.launch()
    assert len(user.placed) == 1
    assert [line for line in user.lines("waiting for ssh: Vast.ai:") if "400" in line]


def test_a_key_that_is_not_let_in_is_told(user, tmp_path, monkeypatch):
    monkeypatch.setattr(await_ssh, "REFUSED_SECONDS", 0.1)
    with host(tmp_path / "other") as other:
        use(monkeypatch, other)
        with pytest.raises(Refused, match="refused your key"):
            user.launch()
    assert user.said[-1].endswith(END)


def another_key(folder):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "old"], check=True)
    return " ".join((folder / "old.pub").read_text().split()[:2])


def test_an_address_that_another_machine_had_before(user, machine, tmp_path):
    """Rented addresses and ports are used again, by machines with host keys of their own."""
    key = another_key(tmp_path)
    user.project.known_hosts.write_text(f"[{machine.server.address}]:{machine.server.port} {key}\n")
    user.launch()
    assert len(user.placed) == 1
    assert key not in user.project.known_hosts.read_text()


def test_a_pin_of_that_address_among_the_users_own_is_another_machines(user, machine, tmp_path, monkeypatch):
    """With it in ~/.ssh/known_hosts, ssh would refuse the new machine for good; what comes after has both files."""
    key = another_key(tmp_path)
    own = tmp_path / "me" / ".ssh" / "known_hosts"
    own.parent.mkdir(parents=True)
    own.write_text(f"[{machine.server.address}]:{machine.server.port} {key}\n")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setattr(await_ssh, "REFUSED_SECONDS", 0.1)
    place = user.launch(lambda place: place.connection.check("true"))
    place.connection.close()
    place.connection.check("true")
    assert key in own.read_text()


def test_a_changed_host_key_of_a_machine_that_was_there_is_refused(user, machine, tmp_path):
    user.launch()
    user.placed[0].connection.close()
    key = another_key(tmp_path)
    user.project.known_hosts.write_text(f"[{machine.server.address}]:{machine.server.port} {key}\n")
    with pytest.raises(Refused, match="host key is not the one that was pinned"):
        user.launch()


def test_nobody_offers_it(user):
    with pytest.raises(ProviderError, match=r"vast: nobody offers 1 x 4090 for at most \$0\.1 an hour now"):
        user.launch(wanted=Wanted(gpu="4090", max_price=0.1))


def test_offers_of_several_providers_cheapest_first_and_what_fails_passed_over(user):
    with serving_vast() as server:
        server.machines = [offer(1, "RTX 4090", 0.40), offer(2, "RTX 4090", 0.30)]
        other = vast.connect({"AURICLE_VAST_URL": server.url, "VAST_API_KEY": server.key})
        refused = vast.connect({"AURICLE_VAST_URL": server.url, "VAST_API_KEY": "wrong"})
        found = offers([user.provider, refused, other], Wanted(gpu="4090"))
        assert [one.price_per_hour for _, one in found] == [0.30, 0.38, 0.40, 0.41, 0.52]
        with pytest.raises(ProviderError, match="refused the key"):
            offers([refused], Wanted(gpu="4090"))


def test_the_public_key_is_the_one_that_ssh_uses(machine):
    assert public_key() == (machine.server.client_config.parent / "key.pub").read_text().strip()


def test_no_public_key_is_told(tmp_path, monkeypatch):
    (tmp_path / "config").write_text(f"Host *\n  IdentityFile {tmp_path}/none\n")
    monkeypatch.setenv("AURICLE_SSH_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(UsageError, match="ssh-keygen -t ed25519"):
        public_key()

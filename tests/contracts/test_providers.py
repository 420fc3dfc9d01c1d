"""Each provider against a server that keeps to its published shapes: prices, one machine a run, no bill left over."""

import contextlib
import io
import json
import logging
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from auricle.core.folder import find, names
from auricle.remote.providers import Provider, ProviderError, Wanted
from auricle.remote.providers.parts import http, rentals
from auricle.remote.providers.parts.http import Denied, Lost, NoKey, Taken, Unanswered
from tests.remote.providers.api_server import ACCEPTED, DROPPED, ApiServer
from tests.remote.providers.lambda_cloud_server import serving_lambda
from tests.remote.providers.runpod_server import serving_runpod
from tests.remote.providers.vast_server import serving_vast

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA me@laptop"
A100 = Wanted(gpu="a100")


@dataclass(frozen=True, kw_only=True)
class Kind:
    serving: Callable[[], Any]
    url: str
    key: str
    file: str
    content: str
    renting: str
    listing: str
    releasing: str
    echo: Callable[[str], Any]
    """The body of an error that says this."""


KINDS = {
    "runpod": Kind(serving=serving_runpod, url="AURICLE_RUNPOD_URL", key="RUNPOD_API_KEY", file=".runpod/config.toml",
                   content='[default]\napi_key = "{}"\n', renting="POST /pods", listing="GET /pods",
                   releasing="DELETE /pods",
                   echo=lambda text: {"title": "Unauthorized", "status": 401, "detail": text}),
    "vast": Kind(serving=serving_vast, url="AURICLE_VAST_URL", key="VAST_API_KEY", file=".config/vastai/vast_api_key",
                 content="{}", renting="PUT /v0/asks", listing="GET /v1/instances", releasing="DELETE /v0/instances",
                 echo=lambda text: {"success": False, "error": "auth_error", "msg": text}),
    "lambda_cloud": Kind(serving=serving_lambda, url="AURICLE_LAMBDA_URL", key="LAMBDA_API_KEY",
                         file=".lambda_cloud/lambda_keys", content="api_key = {}\n",
                         renting="POST /instance-operations/launch", listing="GET /instances",
                         releasing="POST /instance-operations/terminate",
                         echo=lambda text: {"error": {"code": "global/invalid-api-key", "message": text}}),
}


@dataclass(frozen=True, kw_only=True)
class Account:
    kind: Kind
    server: ApiServer | Any
    provider: Provider

    def rent(self, run: str = "tiny", **changes: Any) -> Any:
        offer = self.provider.offers(A100)[0]
        return self.provider.rent(offer, **{"run": run, "public_key": KEY, "disk_gb": 60, "image": None, **changes})


@pytest.fixture(params=sorted(KINDS))
def account(request, monkeypatch) -> Iterator[Account]:
    monkeypatch.setattr(http, "FIRST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(http, "LONGEST_WAIT_SECONDS", 0.04)
    monkeypatch.setattr(rentals, "LOOK_SECONDS", 0.02)
    kind = KINDS[request.param]
    with kind.serving() as server:
        provider = find("remote.providers", request.param).connect({kind.url: server.url, kind.key: server.key})
        yield Account(kind=kind, server=server, provider=provider)


def test_every_provider_is_under_contract():
    assert set(names("remote.providers")) == {*KINDS, "ssh"}


def test_offers_are_of_that_gpu_and_cheapest_first(account):
    offers = account.provider.offers(A100)
    assert offers
    assert all("A100" in offer.gpu and offer.gpus == 1 and offer.price_per_hour > 0 for offer in offers)
    assert offers == sorted(offers, key=lambda offer: offer.price_per_hour)
    assert account.provider.offers(Wanted(gpu="a100", max_price=0.01)) == []


def test_an_unknown_gpu_is_told_with_near_ones(account):
    with pytest.raises(ProviderError, match=r"has no GPU 'a101'; nearest there: \S*.*A100"):
        account.provider.offers(Wanted(gpu="a101"))


def test_no_stock_is_no_offer(account):
    account.server.stock, account.server.regions, account.server.machines = "NONE", [], []
    assert account.provider.offers(A100) == []


def test_a_rented_machine_is_found_by_its_run_until_it_is_released(account):
    rented = account.rent()
    assert (rented.run, rented.state, rented.address) == ("tiny", "starting", None)
    assert time.time() - rented.since < 60
    account.provider.find("tiny")  # it comes up meanwhile
    (there,) = account.provider.find("tiny")
    assert (there.id, there.run, there.state) == (rented.id, "tiny", "running")
    assert there.price_per_hour == pytest.approx(rented.price_per_hour)
    assert there.since == pytest.approx(rented.since, abs=60)
    address, port, user = account.server.host
    assert there.address == f"{user if user == 'ubuntu' else 'root'}@{address}:{port}"
    assert account.provider.find("other") == []
    assert account.provider.find() == [there]
    account.provider.release(rented.id, keep_disk=False)
    assert account.provider.find() == [] == [*account.server.pods]
    account.provider.release(rented.id, keep_disk=False)


def test_machines_of_others_are_not_ours(account):
    rented = account.rent()
    row = account.server.pods[next(iter(account.server.pods))]
    row["name" if "name" in row else "label"] = "my own machine"
    assert account.provider.find() == []
    assert [(machine.id, machine.run) for machine in account.provider.find(foreign=True)] == [(rented.id, "")]
    assert account.provider.find("", foreign=True) != [] == account.provider.find("tiny", foreign=True)
    row["name" if "name" in row else "label"] = None if account.provider.name == "vast" else ""
    assert account.provider.find() == []
    assert rented.id in account.server.pods


@pytest.mark.parametrize("run", ["tiny", "größe", "a run with blanks/and more", "x" * 80])
def test_renting_twice_rents_once(account, run):
    first = account.rent(run)
    again = account.rent(run)
    assert again.id == first.id
    assert (first.is_new, again.is_new) == (True, False)
    assert len(account.server.pods) == 1
    assert [machine.id for machine in account.provider.find(first.run)] == [first.id]
    assert account.rent("second").id != first.id


def test_the_newest_of_two_machines_of_a_run_comes_first(account):
    first = account.rent()
    second = account.rent("second")
    rows = list(account.server.pods.values())
    older = rows[0]
    if "createdAt" in older:
        older["createdAt"] = "2026-06-01T12:00:00Z"
    older["start_date"], older["tags"] = 1.0, [{"key": "auricle-since", "value": "1000"}]
    rows[1]["name"] = rows[1]["label"] = "auricle-tiny"
    assert [machine.id for machine in account.provider.find("tiny")] == [second.id, first.id]
    assert account.rent().id == second.id


def test_a_renting_whose_answer_is_lost_rents_once(account):
    account.server.fail(account.kind.renting, ACCEPTED)
    rented = account.rent()
    assert [*account.server.pods] == [rented.id]
    assert rented.is_new
    assert len(account.server.asked(account.kind.renting)) == 1
    assert account.rent().id == rented.id


@pytest.mark.parametrize("how", [DROPPED, 500])
def test_a_renting_that_may_have_failed_is_not_repeated_blindly(account, how):
    account.server.fail(account.kind.renting, how)
    with pytest.raises(Lost, match="looks again before it rents"):
        account.rent()
    assert len(account.server.asked(account.kind.renting)) == 1
    assert account.rent().id in account.server.pods


@pytest.mark.parametrize("how", [400, 500])
def test_a_renting_whose_answer_is_lost_where_nobody_can_be_asked_afterwards(account, monkeypatch, how):
    buy = account.provider._buy

    def bought_and_silent(*arguments):
        account.server.fail(account.kind.listing, how, times=http.ATTEMPTS)
        return buy(*arguments)

    monkeypatch.setattr(account.provider, "_buy", bought_and_silent)
    account.server.fail(account.kind.renting, ACCEPTED)
    with pytest.raises(Lost, match="looks again before it rents"):
        account.rent()
    account.server.scripts.clear()
    assert [account.rent().id] == [*account.server.pods]


@pytest.mark.parametrize("body", [{}, {"success": True}, [], [1], "7", {"data": None}, {"id": "x"}])
def test_an_answer_to_renting_that_cannot_be_read_may_have_rented(account, body):
    account.server.fail(account.kind.renting, 200, body=json.dumps(body))
    with pytest.raises(ProviderError) as raised:
        account.rent()
    assert type(raised.value) in (Lost, Taken)


@pytest.mark.parametrize("body", [{}, {"pods": None, "instances": None, "data": None}, [], "7", {
    "pods": [{"name": "auricle-tiny"}], "instances": [{"label": "auricle-tiny"}], "data": [{"name": "auricle-tiny"}]}])
def test_an_answer_that_cannot_be_read_is_told(account, body):
    account.server.fail(account.kind.listing, 200, body=json.dumps(body))
    with pytest.raises(Lost, match="its answer has not the shape that is known here"):
        account.provider.find()
    account.server.fail("", 200, times=4, body=json.dumps(body))
    with pytest.raises(ProviderError):
        account.provider.offers(A100)


def test_machines_of_others_that_cannot_be_read_hide_none_of_ours(account):
    rented = account.rent()
    account.server.pods["99"] = {**account.server.pods[rented.id], "id": 99, "name": "mine", "label": "mine",
                                 "createdAt": None, "dph_total": "?", "instance_type": 0}
    assert [machine.id for machine in account.provider.find()] == [rented.id]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "ftp://me:secret@127.0.0.1:9", "http://127.0.0.1:port"])
def test_a_proxy_that_cannot_be_used_is_told(account, monkeypatch, proxy):
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ProviderError, match="the proxy of this environment cannot be used") as raised:
        account.provider.find()
    assert "secret" not in str(raised.value)


def test_a_renting_that_was_refused_for_its_rate_is_repeated(account):
    account.server.fail(account.kind.renting, 429)
    account.rent()
    assert len(account.server.pods) == 1
    assert len(account.server.asked(account.kind.renting)) == 2


def test_an_offer_that_is_taken_by_then_is_told_apart(account):
    offer = account.provider.offers(A100)[0]
    account.server.is_full = True
    with pytest.raises(Taken):
        account.provider.rent(offer, run="tiny", public_key=KEY, disk_gb=60, image=None)
    assert account.provider.find() == []
    assert len(account.server.asked(account.kind.renting)) == 1


def test_our_key_is_let_in(account):
    account.rent()
    account.rent()
    (row,) = account.server.pods.values()
    keys = {key["name"]: key["public_key"] for key in getattr(account.server, "keys", [])}
    let_in = [row.get("env", {}).get("PUBLIC_KEY"), *row.get("ssh_keys", []),
              *(keys[name] for name in row.get("ssh_key_names", []))]
    assert [key for key in let_in if key] == [KEY]


def test_waits_as_long_as_the_provider_says(account):
    account.server.fail(account.kind.listing, 429, Retry_After="1")
    account.provider.find()
    first, second = (call.time for call in account.server.asked(account.kind.listing))
    assert second - first >= 1.0


def test_too_long_a_wait_is_told_at_once(account):
    account.server.fail(account.kind.listing, 429, Retry_After="3600")
    with pytest.raises(Denied, match="too many calls"):
        account.provider.find()
    assert len(account.server.asked(account.kind.listing)) == 1


@pytest.mark.parametrize("how", [500, 503, DROPPED])
def test_a_passing_failure_is_asked_again(account, how):
    account.rent()
    account.server.calls.clear()
    account.server.fail(account.kind.listing, how, times=http.ATTEMPTS - 1)
    assert len(account.provider.find("tiny")) == 1
    assert len(account.server.asked(account.kind.listing)) == http.ATTEMPTS


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_never_asked_again(account, status):
    account.server.fail(account.kind.listing, status)
    with pytest.raises(Denied):
        account.provider.find()
    assert len(account.server.asked(account.kind.listing)) == 1


def test_a_lasting_failure_ends_with_a_sentence(account):
    account.server.fail(account.kind.listing, 500, times=http.ATTEMPTS)
    with pytest.raises(ProviderError, match=r"500 to GET /"):
        account.provider.find()


def test_releasing_is_repeated_until_it_is_done(account):
    rented = account.rent()
    account.server.fail(account.kind.releasing, 500)
    account.server.fail(account.kind.releasing, ACCEPTED)
    account.provider.release(rented.id, keep_disk=False)
    assert not account.server.pods


def test_stopping_keeps_the_machine_and_can_be_repeated(account):
    rented = account.rent()
    account.provider.find()
    if not account.provider.can_stop:
        with pytest.raises(ProviderError, match="cannot be stopped"):
            account.provider.release(rented.id, keep_disk=True)
        assert rented.id in account.server.pods
        return
    account.provider.release(rented.id, keep_disk=True)
    account.provider.release(rented.id, keep_disk=True)
    (there,) = account.provider.find("tiny")
    assert (there.id, there.state, there.address) == (rented.id, "stopped", None)
    account.provider.release(rented.id, keep_disk=False)
    account.provider.release(rented.id, keep_disk=True)
    assert not account.server.pods


def test_says_what_goes_on_being_billed(account):
    assert "billed" in account.provider.billing
    assert account.provider.billing.endswith(".")


def test_a_wrong_key_is_told_with_the_page_for_a_new_one(account):
    kind = account.kind
    other = find("remote.providers", account.provider.name).connect({kind.url: account.server.url, kind.key: "wrong"})
    with pytest.raises(Denied, match=rf"refused the key .*and set {kind.key}"):
        other.find()
    assert len(account.server.asked(kind.listing)) == 1


def test_no_key_is_told_with_the_page_for_one(account, tmp_path):
    with pytest.raises(NoKey, match=rf"no key is set; get one on .*{account.kind.key}"):
        find("remote.providers", account.provider.name).connect({"HOME": str(tmp_path)})


def test_a_key_is_read_from_the_file_of_the_providers_own_tool(account, tmp_path):
    kind = account.kind
    path = tmp_path / kind.file
    path.parent.mkdir(parents=True)
    path.write_text(kind.content.format(account.server.key))
    connected = find("remote.providers", account.provider.name).connect(
        {kind.url: account.server.url, "HOME": str(tmp_path)})
    assert connected.find() == []


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_what_cannot_be_a_key_is_never_sent(account, key):
    with pytest.raises(ProviderError, match="what is set as its key is none") as raised:
        find("remote.providers", account.provider.name).connect({account.kind.key: key})
    assert key not in str(raised.value)


def test_nobody_listens(account):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    kind = account.kind
    alone = find("remote.providers", account.provider.name).connect({kind.url: url, kind.key: account.server.key})
    with pytest.raises(Unanswered, match="cannot be reached"):
        alone.find()


def test_what_is_no_json_is_told(account):
    account.server.fail(account.kind.listing, 200, times=http.ATTEMPTS, body="<html>maintenance</html>")
    with pytest.raises(Lost, match="is no JSON"):
        account.provider.find()


def test_the_key_is_in_no_log_and_in_no_message(account, caplog):
    """Whatever fails, with every log of every library on."""
    caplog.set_level(logging.DEBUG)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        key, kind, provider = account.server.key, account.kind, account.provider
        rented = account.rent()
        attempts: list[Callable[[], Any]] = [provider.find, lambda: provider.release(rented.id, keep_disk=False),
                                             lambda: account.rent("again"), lambda: provider.offers(A100)]
        for how in (429, 500, DROPPED, 401, 403, 400):
            for attempt in attempts:
                body = kind.echo(f"the key {key} is not good") if isinstance(how, int) else None
                account.server.fail("", how, times=http.ATTEMPTS, body=body)
                try:
                    attempt()
                except ProviderError as error:
                    printed.write("".join(traceback.format_exception(error)) + repr(error) + repr(error.__context__))
                account.server.scripts.clear()
        printed.write(repr(provider) + repr(vars(provider)))
    written = printed.getvalue() + "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "the key … is not good" in written
    assert "HTTP Request" in written
    assert key not in written

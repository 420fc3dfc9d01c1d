"""Alarms on their way: a web server on this machine stands in for Slack."""

import contextlib
import http.server
import json
import sys
import threading
import types

import pytest

from auricle.core.errors import MissingExtra, UsageError
from auricle.remote.watching import alarms
from auricle.remote.watching.alarms import Delivery, NotDelivered, webhook

SECRET = "B0/very-secret"


class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers["Content-Type"], body))
        self.server.hang.wait(30)
        self.send_response(self.server.codes.pop(0) if self.server.codes else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


@pytest.fixture
def hook():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.daemon_threads = False
    server.got, server.codes, server.hang = [], [], threading.Event()
    server.hang.set()
    server.url = f"http://127.0.0.1:{server.server_port}/services/{SECRET}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.hang.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(alarms, "WAITS", (0.01, 0.01))


def test_a_webhook_gets_the_text(hook):
    webhook(hook.url)("voxformer on 10.0.0.7: 'does' not \"answer\" ü")
    [(path, kind, body)] = hook.got
    assert (path, kind) == (f"/services/{SECRET}", "application/json")
    assert json.loads(body) == {"text": "voxformer on 10.0.0.7: 'does' not \"answer\" ü"}


@pytest.mark.parametrize(("host", "body"), [
    ("discord.com", b'{"content": "a"}'), ("ptb.discord.com", b'{"content": "a"}'), ("ntfy.sh", b"a"),
    ("hooks.slack.com", b'{"text": "a"}')])
def test_each_service_gets_its_own_form(host, body):
    assert alarms._body(host, "a")[0] == body


@pytest.mark.parametrize(("codes", "calls"), [([503, 429], 3), ([500, 500, 500, 500], 3), ([404], 1)])
def test_what_may_pass_is_tried_again_and_what_will_not_is_not(hook, codes, calls):
    hook.codes = [*codes]
    with pytest.raises(NotDelivered) if hook.codes[-1] in (404, 500) else contextlib.nullcontext():
        webhook(hook.url)("text")
    assert len(hook.got) == calls


def test_a_webhook_that_fails_or_hangs_hides_neither_the_next_alarm_nor_the_other_channel(hook, monkeypatch):
    monkeypatch.setattr(alarms, "CALL_SECONDS", 0.2)
    hook.hang.clear()
    said, other = [], []
    delivery = Delivery([webhook(hook.url), webhook("http://127.0.0.1:9/x"), other.append], said.append)
    delivery.send("first")  # returns at once, though nobody answers
    delivery.send("second")
    delivery.finish(30.0)
    assert other == ["first", "second"]
    assert len(said) == 4
    assert not any(SECRET in sentence or "very" in sentence for sentence in said)
    assert "http://127.0.0.1/…" in said[0]


@pytest.mark.parametrize("url", [
    f"ftp://x/{SECRET}", SECRET, f"https:///{SECRET}", f"https://[x/{SECRET}", f"https://host:port/{SECRET}",
    f"https://host:70000/{SECRET}"])
def test_what_is_no_webhook_is_refused_without_being_shown(url):
    with pytest.raises(UsageError) as refused:
        webhook(url)
    assert SECRET not in str(refused.value)


def test_apprise_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(MissingExtra, match=r"auricle\[alarms\]"):
        alarms.apprise(["json://x"])


def test_apprise_delivers_and_its_urls_are_not_shown(monkeypatch):
    sent = []

    class Apprise:
        def add(self, url):
            return not url.startswith("nonsense")

        def notify(self, body, title):
            sent.append((title, body))
            return body != "fails"

    monkeypatch.setitem(sys.modules, "apprise", types.SimpleNamespace(Apprise=Apprise))
    channel = alarms.apprise([f"tgram://{SECRET}"])
    channel("text")
    with pytest.raises(NotDelivered) as failed:
        channel("fails")
    assert sent[0] == ("Auricle", "text")
    assert str(failed.value) == "apprise (tgram)"
    with pytest.raises(UsageError) as refused:
        alarms.apprise([f"nonsense://{SECRET}"])
    assert SECRET not in str(refused.value)


def test_the_real_library_takes_the_calls_that_we_make(hook):
    pytest.importorskip("apprise")
    alarms.apprise([f"json://127.0.0.1:{hook.server_port}/x"])("over apprise")
    assert json.loads(hook.got[0][2])["message"] == "over apprise"


def test_the_desktop_is_told_where_there_is_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DISPLAY", ":0")
    assert alarms.desktop() is None
    script = tmp_path / "notify-send"
    script.write_text(f"#!/bin/sh\nprintf '%s|' \"$@\" > {tmp_path}/told\n")
    script.chmod(0o755)
    alarms.desktop()("-x a b")
    assert (tmp_path / "told").read_text() == "--urgency=critical|--|Auricle|-x a b|"
    script.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(NotDelivered):
        alarms.desktop()("a")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert alarms.desktop() is None  # a server without one

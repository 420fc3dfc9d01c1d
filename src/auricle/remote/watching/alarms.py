"""Alarms on their way to a person: the desktop, a webhook, whatever apprise knows.

    Alarm ─► Delivery (a thread of its own) ─► desktop line · notify-send · webhook · apprise

A channel that fails or hangs delays no other alarm's discovery; that it failed is said once for each alarm. A webhook's
URL is a secret: it is shown without what follows its host.
"""

import http.client
import json
import logging
import os
import queue
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from auricle.core.errors import MissingExtra, UsageError

CALL_SECONDS = 10.0
WAITS = (1.0, 5.0)
"""Seconds before a webhook is tried again."""
TOO_MANY = 429
TITLE = "Auricle"


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """What a person should know. `kind`: lost, back, guard, budget, secrets, ended, failed, copy, alarm, limit …"""

    machine: str
    kind: str
    text: str
    run: str | None = None
    time: float = 0.0
    """Unix time here."""

    def __str__(self) -> str:
        return f"{f'{self.run} on ' if self.run else ''}{self.machine}: {self.text}"


class NotDelivered(Exception):
    """Why, in a sentence without a secret."""


Channel = Callable[[str], None]
"""Takes a text; raises NotDelivered."""
Tell = Callable[[str], None]


class Delivery:
    """Hands alarms to channels, in order, from a thread of its own."""

    def __init__(self, channels: Sequence[Channel], tell: Tell) -> None:
        self._channels, self._tell = channels, tell
        self._waiting: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._deliver, daemon=True).start()

    def send(self, text: str) -> None:
        self._waiting.put(text)

    def finish(self, seconds: float) -> None:
        """Waits until all is delivered or given up, at most so long."""
        until = time.monotonic() + seconds
        while self._waiting.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.02)

    def _deliver(self) -> None:
        while True:
            text = self._waiting.get()
            for channel in self._channels:
                try:
                    channel(text)
                except NotDelivered as error:
                    self._tell(f"not delivered: {error}")
            self._waiting.task_done()


def webhook(url: str) -> Channel:
    """Posts {"text": …}, as Slack, Mattermost and Teams take it; {"content": …} to Discord; plain text to ntfy.

    Raises UsageError for what is no URL of one.
    """
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        is_one = False
    if not is_one:
        raise UsageError(f"--webhook {shown(url)}: no URL; expected https://HOST/…")
    host = urlsplit(url).hostname or ""

    def post(text: str) -> None:
        body, kind = _body(host, text)
        request = urllib.request.Request(url, data=body, headers={"Content-Type": kind, "User-Agent": "auricle"})
        for wait in (*WAITS, None):
            said, may_pass = _ask(request)
            if not said:
                return
            if wait is None or not may_pass:
                raise NotDelivered(f"webhook {shown(url)}: {said}")
            time.sleep(wait)

    return post


def _ask(request: urllib.request.Request) -> tuple[str, bool]:
    """→ (what went wrong, or ""; whether it may pass). An error's own words may quote the URL, and are not told."""
    try:
        with urllib.request.urlopen(request, timeout=CALL_SECONDS) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        return f"answered {error.code}", error.code >= 500 or error.code == TOO_MANY
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        return (reason.strerror if isinstance(reason, OSError) else None) or type(reason).__name__, True
    return "", False


def shown(url: str) -> str:
    """
    >>> shown("https://hooks.slack.com/services/T0/B0/secret")
    'https://hooks.slack.com/…'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "…"
    return f"{parts.scheme}://{parts.hostname}/…" if parts.hostname else "…"


def _body(host: str, text: str) -> tuple[bytes, str]:
    """→ (body, its content type)"""
    if "ntfy" in host:
        return text.encode(), "text/plain; charset=utf-8"
    key = "content" if host.endswith(("discord.com", "discordapp.com")) else "text"
    return json.dumps({key: text}, ensure_ascii=False).encode(), "application/json"


def desktop() -> Channel | None:
    """notify-send, where it is installed and there is a desktop."""
    command = shutil.which("notify-send")
    if command is None or not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
        return None

    def notify(text: str) -> None:
        try:
            done = subprocess.run([command, "--urgency=critical", "--", TITLE, text], stdin=subprocess.DEVNULL,
                                  capture_output=True, timeout=CALL_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotDelivered(f"notify-send: {type(error).__name__}") from None
        if done.returncode:
            raise NotDelivered("notify-send: no desktop answers")

    return notify


def apprise(urls: Sequence[str]) -> Channel:
    """Raises MissingExtra, UsageError for a URL that apprise does not know."""
    try:
        import apprise as library
    except ImportError:
        raise MissingExtra("--apprise", "alarms") from None
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it would quote URLs
    notifier: Any = library.Apprise()
    for url in urls:
        if not notifier.add(url):
            raise UsageError(f"--apprise {url.partition(':')[0]}:…: apprise knows no such URL; "
                             "github.com/caronc/apprise lists what it knows")

    def notify(text: str) -> None:
        if not notifier.notify(body=text, title=TITLE):
            raise NotDelivered(f"apprise ({', '.join(sorted({url.partition(':')[0] for url in urls}))})")

    return notify

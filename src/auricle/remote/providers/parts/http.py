"""A provider's web API: JSON over HTTPS, asked again where that may help, its failures as sentences without a secret.

    429            after the seconds of Retry-After, or after 1, 2, 4 … s
    5xx, no answer the same; what rents is not asked twice, unless the provider surely did nothing
    other 4xx      never again
"""

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stamina

from auricle.remote.providers import ProviderError

if TYPE_CHECKING:
    import ssl

    import httpx

ATTEMPTS, FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5, 1.0, 16.0
CALL_SECONDS = 30.0
LONGEST_RETRY_AFTER = 60.0
"""Who asks for more patience than this is told to the user."""
SAID = 300
"""Characters of an API's own words that are shown."""
KEY = re.compile(r"""(?m)^\s*api_?key\s*[=:]\s*["']?([^"'\s]+)""", re.I)

logging.getLogger("stamina").addHandler(logging.NullHandler())  # waiting for a provider needs no line of its own


class NoKey(ProviderError):
    """There is no key for this provider here."""


class Denied(ProviderError):
    """The provider answered, and did not do it."""

    def __init__(self, sentence: str, *, status: int, code: str = "", retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.status, self.code, self.retry_after = status, code, retry_after


class Taken(Denied):
    """The offer is gone or never was for us: another one may be."""


class Unanswered(ProviderError):
    """The provider cannot be reached: it did nothing."""


class Lost(ProviderError):
    """No answer came, or none that can be read: it may have been done."""


@dataclass(frozen=True, kw_only=True)
class Api:
    provider: str
    """As its users call it: "RunPod"."""
    url: str
    key: str = field(repr=False)
    new_key: str
    """Where to get a key: a page, and the variable that holds it."""

    def call(self, method: str, path: str, body: object = None, *, query: Mapping[str, Any] | None = None,
             once: bool = False) -> Any:
        """→ the JSON of the answer, None for an empty one. `once`: this must not happen twice.

        Raises Denied, Unanswered, Lost.
        """
        answer = None
        for attempt in stamina.retry_context(on=partial(_again, once=once), attempts=ATTEMPTS, timeout=None,
                                             wait_initial=FIRST_WAIT_SECONDS, wait_max=LONGEST_WAIT_SECONDS,
                                             wait_jitter=FIRST_WAIT_SECONDS / 5):
            with attempt:
                answer = self._ask(method, path, body, query, once)
        return answer

    def _ask(self, method: str, path: str, body: object, query: Mapping[str, Any] | None, once: bool) -> Any:
        import httpx

        try:
            with self._client() as client:
                answer = client.request(method, path.lstrip("/"), json=body, params=query)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unanswered(f"{self.provider}: cannot be reached ({self.without_key(str(error)) or 'no answer'}); is "
                             "this machine online?") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise Lost(f"{self.provider}: no answer to {method} {path} ({_kind(error)})") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ProviderError(f"{self.provider}: {self.url} is no address of an API ({_kind(error)})") from None
        told = self._read(answer, f"{method} {path}")
        if isinstance(told, Denied):
            raise Lost(str(told)) if once and told.status >= 500 else told
        return told

    def _client(self) -> "httpx.Client":
        import httpx

        url = httpx.URL(self.url)  # what is no URL after this is a proxy's
        try:
            return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {self.key}"},
                                timeout=httpx.Timeout(CALL_SECONDS, connect=10.0), verify=_trusted())
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            why = "SOCKS" if isinstance(error, ImportError) else _kind(error)
            raise ProviderError(f"{self.provider}: the proxy of this environment cannot be used ({why}); unset "
                                "ALL_PROXY, HTTPS_PROXY and HTTP_PROXY, or set one of http://") from None

    def _read(self, answer: "httpx.Response", asked: str) -> Any:
        if answer.is_success and not answer.content:
            return None
        try:
            told = answer.json()
        except ValueError:
            if answer.is_success:
                raise Lost(f"{self.provider}: the answer to {asked} is no JSON; try again later") from None
            told = answer.text
        return told if answer.is_success else self._denied(answer, told, asked)

    def _denied(self, answer: "httpx.Response", told: object, asked: str) -> Denied:
        code, message = said(told)
        message = self.without_key(message) or answer.reason_phrase
        sentence = {
            401: f"refused the key ({message}); get one on {self.new_key}",
            403: f"this key may not do {asked} ({message}); give it that right on {self.new_key}",
            402: f"wants to be paid first ({message}); add credit in its console",
            429: f"too many calls ({message}); try again in a minute",
        }.get(answer.status_code, f"{message} ({answer.status_code} to {asked})")
        return Denied(f"{self.provider}: {sentence}", status=answer.status_code, code=code,
                      retry_after=_seconds(answer.headers.get("Retry-After")))

    def without_key(self, text: str) -> str:
        return text.replace(self.key, "…")


@contextlib.contextmanager
def reading(provider: str) -> Iterator[None]:
    """Around what reads answers, also as a decorator: one of another shape than was published raises Lost."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else _kind(error)
        raise Lost(f"{provider}: its answer has not the shape that is known here ({what}); a newer auricle may "
                   "know it") from None


@cache
def _trusted() -> "ssl.SSLContext":
    """The certificates are read once, not with each call."""
    import httpx

    return httpx.create_ssl_context()


def said(told: object) -> tuple[str, str]:
    """An API's own code and words for an error, in the shapes that the providers have; one line.

    >>> said({"error": {"code": "global/quota-exceeded", "message": "Quota exceeded.", "suggestion": "Ask."}})
    ('global/quota-exceeded', 'Quota exceeded. Ask.')
    """
    if not isinstance(told, dict):
        return "", _line(told)
    error = told.get("error")
    if isinstance(error, dict):
        return str(error.get("code", "")), _line(error.get("message"), error.get("suggestion"))
    words = [told.get(name) for name in ("detail", "msg", "message") if told.get(name)] or [error or told.get("title")]
    return str(error or ""), _line(*words, *(told.get("errors") or ()))


def key_of(environ: Mapping[str, str], variables: Sequence[str], file: str, new_key: str, provider: str) -> str:
    """The key from the first variable that is set, or from a file of the provider's own tool in the home folder.

    Raises NoKey; ProviderError for what cannot be a key.
    """
    found = next((environ[name] for name in variables if environ.get(name)), None) or _filed(environ, file)
    if not found:
        raise NoKey(f"{provider}: no key is set; get one on {new_key}")
    key = found.strip()
    if not key.isascii() or not key.isprintable() or " " in key:  # its text must not come into a library's exception
        raise ProviderError(f"{provider}: what is set as its key is none (it has blanks or other odd characters); get "
                            f"one on {new_key}")
    return key


def _filed(environ: Mapping[str, str], file: str) -> str | None:
    home = environ.get("HOME")
    try:
        text = (Path(home) / file).read_text(encoding="utf-8") if home else ""
    except (OSError, UnicodeDecodeError):
        return None
    found = KEY.search(text)
    return found[1] if found else text.strip()


def _again(error: Exception, *, once: bool) -> bool | float:
    """Whether to ask again, or after how many seconds."""
    if isinstance(error, Unanswered):
        return True
    if isinstance(error, Lost):
        return not once
    if not isinstance(error, Denied) or (error.status != 429 and error.status < 500):
        return False
    if error.retry_after is not None:
        return error.retry_after <= LONGEST_RETRY_AFTER and error.retry_after
    return True


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None


def _kind(error: Exception) -> str:
    """An exception's own text may quote what was sent."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()


def _line(*parts: object) -> str:
    return " ".join(" ".join(str(part) for part in parts if part).split())[:SAID]

"""Files behind any URL that fsspec knows, read in byte ranges, whatever happens on the way.

A server that fails, stalls or cuts a body is asked again, at longer and longer intervals, for up to an hour. What no
asking mends (no such file, no access) is a DataError at once. A path without a scheme is a local file.
"""

import contextlib
import io
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import stamina
import xxhash

from auricle.core.errors import AuricleError, DataError, Preempted
from auricle.data import outages

CONNECT_SECONDS, SILENCE_SECONDS = 10.0, 30.0
"""Limits of an HTTP request: until it is connected, and without a byte."""
CALL_SECONDS = 180.0
"""Limit of any request: some clients have none of their own."""
PATIENCE_SECONDS = 3600.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0
BLOCK = 8 << 20
"""Bytes of a request at most: what is lost when a body is cut."""
IDENTITIES = ("ETag", "blob_id", "lfs", "sha256", "md5Hash", "mtime", "LastModified", "Last-Modified")
"""What file systems call the fields that change with a file's content."""
TRANSIENT = (408, 425, 429)

Result = TypeVar("Result")

logging.getLogger("stamina").addHandler(logging.NullHandler())  # an outage is told in words, and in the run's log


@dataclass(frozen=True, slots=True, order=True)
class RemoteFile:
    """A file as it was when it was listed."""

    url: str
    bytes: int
    version: str = ""
    """Differs when the content does, as far as the file system can tell."""

    @property
    def is_local(self) -> bool:
        return "://" not in self.url

    def __str__(self) -> str:
        return self.url


def listed(pattern: str) -> list[RemoteFile]:
    """The files that a URL or path names, sorted; `*`, `**` and `?` where the file system can list (not https).

    Raises DataError where there is none, or no access.
    """
    if "://" not in pattern:
        return _listed_here(pattern)
    scheme = pattern.partition("://")[0]
    has_pattern = any(mark in pattern for mark in ("*[" if scheme in ("http", "https") else "*?["))
    if has_pattern and scheme in ("http", "https"):
        raise DataError(f"'{pattern}': files behind {scheme} cannot be listed; expected no '*'. Name each file, or "
                        "use a file system that can list: hf://datasets/OWNER/NAME/…, s3://…")
    files, path = _file_system(pattern), _path(pattern)
    if not has_pattern:
        return [_found(pattern, persistently(pattern, partial(files.info, path)))]
    entries = persistently(pattern, partial(files.glob, path, detail=True))
    found = [_found(files.unstrip_protocol(name), entry) for name, entry in entries.items() if entry["type"] == "file"]
    if not found:
        raise DataError(f"'{pattern}': no such file; expected at least one. Correct the pattern")
    return sorted(found)


def _listed_here(pattern: str) -> list[RemoteFile]:
    paths = [Path(name) for name in fsspec.filesystem("file").glob(str(Path(pattern).absolute()))]
    if not (paths := sorted(path for path in paths if path.is_file())):
        raise DataError(f"'{pattern}': no such file (seen from {Path.cwd()}); expected at least one. Correct the path")
    return [RemoteFile(str(path), path.stat().st_size, _version({"mtime": path.stat().st_mtime_ns}))
            for path in paths]


def _found(url: str, entry: dict[str, Any]) -> RemoteFile:
    if entry.get("size") is None:
        raise DataError(f"'{url}': the server does not tell its size, so parts of it cannot be read; "
                        "expected a server that serves byte ranges")
    return RemoteFile(url, int(entry["size"]), _version(entry))


def _version(entry: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(repr([entry[name] for name in IDENTITIES if entry.get(name)]).encode())[:8]


class Ranges(io.RawIOBase):
    """A remote file as a seekable stream, for readers that ask for the parts that they need."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.bytes}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._file.bytes)
        done = 0
        while self._position < stop:
            part = read_range(self._file, self._position, min(self._position + BLOCK, stop))
            buffer[done : done + len(part)] = part
            done, self._position = done + len(part), self._position + len(part)
        return done


def read_range(file: RemoteFile, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of a remote file. Raises DataError where the file is another one by now."""
    files, path = _file_system(file.url), _path(file.url)

    def read() -> bytes:
        with files.open(path, "rb", size=file.bytes, block_size=BLOCK, cache_type="none") as stream:
            stream.seek(start)
            data = stream.read(stop - start)
        if len(data) < stop - start:
            size = files.info(path)["size"]
            if size != file.bytes:
                raise changed(file, size)
            raise ConnectionError(f"{len(data)} bytes came, {stop - start} were asked for")
        return data

    return persistently(file.url, read)


def changed(file: RemoteFile, size: int | None) -> DataError:
    """The sentence for a file that is not as it was listed."""
    now = "is gone" if size is None else f"has {size:,} bytes"
    return DataError(f"{file.url}: had {file.bytes:,} bytes when it was listed, and now {now}; expected it unchanged. "
                     "Put it back as it was, or prepare the data set again")


def persistently(url: str, call: Callable[[], Result]) -> Result:
    """What `call` returns, asked again while it fails in ways that pass.

    Raises DataError for what does not pass, and Preempted when it has not passed after an hour.
    """
    began, waited = time.monotonic(), False

    def again(error: Exception) -> bool:
        nonlocal waited
        if not isinstance(error, Exception) or isinstance(error, AuricleError):
            return False
        refusal = _refusal(url, error)
        if refusal:
            raise refusal from error
        seconds = time.monotonic() - began
        if seconds > PATIENCE_SECONDS:
            raise Preempted(f"{_host(url)}: has not answered for {seconds / 60:.0f} minutes ({_said(error)}); run the "
                            "same command to go on when it does") from error
        outages.tell(_host(url), _said(error), time.time() - seconds)
        waited = True
        return True

    try:
        for attempt in stamina.retry_context(on=again, attempts=None, timeout=None, wait_initial=FIRST_WAIT_SECONDS,
                                             wait_max=LONGEST_WAIT_SECONDS, wait_jitter=FIRST_WAIT_SECONDS):
            with attempt:
                result = Outcome.of(call).wait(CALL_SECONDS)
    finally:
        if waited:
            outages.settle()
    return result


def _refusal(url: str, error: Exception) -> DataError | None:
    """The sentence for an error that asking again does not mend."""
    cause = error.__cause__ or error  # fsspec reports any failed look at an http file as a missing one
    status = getattr(cause, "status", None) or getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(status, int) and (status >= 500 or status in TRANSIENT):
        return None
    if status in (401, 403) or isinstance(cause, PermissionError):
        return DataError(f"'{url}': no access ({_said(error)}); expected a file that you may read. For the Hugging "
                         "Face hub log in with `hf auth login`, and accept the data set's conditions on its page")
    if status == 404 or isinstance(cause, FileNotFoundError):
        return DataError(f"'{url}': no such file; correct the name")
    if isinstance(status, int):
        return DataError(f"'{url}': {_said(error)}; expected a server that serves byte ranges of it")
    if isinstance(cause, (ValueError, TypeError, AttributeError, LookupError)):
        return DataError(f"'{url}': {_said(error)}; expected a URL of a file that can be read in byte ranges")
    return None


def _said(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _host(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"


class Outcome(contextlib.AbstractContextManager):
    """What a thread comes to, for the one that waits for it."""

    def __init__(self) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        self._reached = threading.Event()

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> bool:
        self._error = error
        self._reached.set()
        return True

    def wait(self, seconds: float | None = None) -> Any:
        """What the thread returned or raised. Raises TimeoutError when it does neither in time."""
        if not self._reached.wait(seconds):
            raise TimeoutError(f"no answer within {seconds:g} s")
        if self._error is not None:
            raise self._error
        return self._value

    @classmethod
    def of(cls, call: Callable[[], Any]) -> "Outcome":
        """Calls in a thread that no one who ends has to wait for."""
        outcome = cls()

        def work() -> None:
            with outcome:
                outcome._value = call()

        threading.Thread(target=work, daemon=True, name="request").start()
        return outcome


_file_systems: dict[tuple[int, str], fsspec.AbstractFileSystem] = {}


def _file_system(url: str) -> fsspec.AbstractFileSystem:
    """Of this process: clients do not live on in a forked one. Raises DataError for a scheme without its package."""
    scheme = url.partition("://")[0]
    key = (os.getpid(), scheme)
    if key not in _file_systems:
        try:
            _file_systems[key] = fsspec.filesystem(scheme, **_options(scheme))
        except (ValueError, ImportError) as error:
            raise DataError(f"'{url}': {_said(error)}; expected a URL that fsspec can open (pip install s3fs for "
                            "s3://, gcsfs for gs://, aiohttp for https://)") from None
    return _file_systems[key]


def _options(scheme: str) -> dict[str, Any]:
    if scheme not in ("http", "https"):
        return {}
    from aiohttp import ClientTimeout

    limits = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
    return {"client_kwargs": {"timeout": limits, "trust_env": True}}


def _path(url: str) -> str:
    """As the file system of the URL calls the file."""
    return _file_system(url)._strip_protocol(url)

"""The hub repository of a run: the best model whenever that changes, never the state of training.

    checkpoints/step-N/ without its state + the parts that it names, in parts/ + its card  ──one commit──►  USER/NAME

It works in the pusher's process, so nothing that fails here touches training. mirrors/hub.json says how it stands.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import stamina

from auricle.core.errors import CheckpointError, ConfigError
from auricle.store import directory, steps
from auricle.store.mirror import BEST, Report, best_of
from auricle.store.targets import MirrorError

REFUSED = (401, 403, 404)
"""Trying again soon will not help: no token, no right to write, no such user."""
REFUSED_SECONDS = 1800.0
LONGEST_WAIT_SECONDS = 60.0
POLL_SECONDS = 5.0
STALE = ["*.safetensors", "parts/*"]
"""Files of an earlier commit that go unless they are in the new one."""
CARD = "README.md"
REFUSED_CARD = "Invalid metadata in README.md"
"""So begins what the hub's client raises when the hub does not take the head of a card."""
Card = Callable[[Path, Path, str], str]
"""(run folder, checkpoint, repository) → the text of CARD."""


@dataclass(frozen=True, kw_only=True)
class HubRecord:
    """mirrors/hub.json."""

    repository: str
    checkpoint: str | None = None
    """The one that is there."""
    self_hash: str | None = None
    tries: int = 0
    """Failures in a row."""
    error: str | None = None
    time: float = 0.0
    """Unix time of the last commit, or of the look after the run's end that found nothing to do."""


class HubCopy:
    """The copy of one run's best model in one repository."""

    def __init__(self, run_folder: Path, repository: str, *, card: Card, report: Report) -> None:
        self.run_folder, self.repository = run_folder, repository
        self._card, self._report = card, report
        known = read_record(run_folder)
        self._record = known if known and known.repository == repository else HubRecord(repository=repository)

    def follow(self, is_running: Callable[[], bool]) -> None:
        """Returns when the run has ended and its best model is there. Failures are tried again for ever."""
        while True:
            ended = not is_running()
            for attempt in stamina.retry_context(on=_pause, attempts=None, timeout=None, wait_initial=1.0,
                                                 wait_max=LONGEST_WAIT_SECONDS):
                with attempt:
                    self.push(ended=ended)
            if ended:
                return
            time.sleep(POLL_SECONDS)

    def push(self, *, ended: bool) -> None:
        """Commits the best model unless it is there. Without an evaluation the newest one counts, once training ended.

        Raises MirrorError for whatever fails there, once that is on record.
        """
        checkpoint = self._chosen(ended)
        if checkpoint is None or self._is_there(checkpoint):
            self._note_nothing_to_do(ended)
            return
        try:
            with self._laid_out(checkpoint) as folder:
                own = directory.self_hash(checkpoint)
                wrong = self._write_card(folder, checkpoint)
                wrong = self._commit(folder, checkpoint.name) or wrong
        except CheckpointError:  # pruned meanwhile
            self._note_nothing_to_do(ended)
            return
        self._note(checkpoint=checkpoint.name, self_hash=own, tries=0, error=wrong, time=time.time())
        self._report(f"{checkpoint.name} is the model of {self.repository} on the hub now")
        if wrong:
            self._report(wrong)

    def _chosen(self, ended: bool) -> Path | None:
        found = steps.all_steps(self.run_folder)
        with contextlib.suppress(OSError):
            best = best_of((self.run_folder / BEST).read_bytes())
            return next((path for path in found if path.name == best), None)
        return found[-1] if found and ended else None

    def _is_there(self, checkpoint: Path) -> bool:
        with contextlib.suppress(CheckpointError):
            return self._record.self_hash == directory.self_hash(checkpoint)
        return True  # pruned meanwhile: nothing to do

    @contextlib.contextmanager
    def _laid_out(self, checkpoint: Path) -> Iterator[Path]:
        """A folder with hard links (copies, where there are none) to what belongs there. Raises CheckpointError."""
        folder = self.run_folder / "mirrors" / "hub.held"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            files = {path.relative_to(checkpoint).as_posix(): path for path in sorted(checkpoint.rglob("*"))
                     if path.is_file() and path.relative_to(checkpoint).parts[0] not in steps.STATE}
            parts = checkpoint.parent / "parts"
            for part in steps.named_parts(checkpoint):
                files |= {path.relative_to(checkpoint.parent).as_posix(): path
                          for path in (parts / part).iterdir() if path.name != directory.CHECKSUMS}
            for name, path in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                _link(path, folder / name)
            yield folder
        except FileNotFoundError as error:
            raise CheckpointError(f"{checkpoint.name}: {error.filename} is gone") from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write_card(self, folder: Path, checkpoint: Path) -> str | None:
        """What is wrong with the card: whatever that is, the model goes without it."""
        try:
            text = self._card(self.run_folder, checkpoint, self.repository)
            (folder / CARD).write_text(text, encoding="utf-8")
        except Exception as error:
            return self._without_card(f"{type(error).__name__}: {error}")
        return None

    def _without_card(self, why: str) -> str:
        return f"hub repository '{self.repository}': the model is there without its card ({why}); please report this"

    def _commit(self, folder: Path, checkpoint: str) -> str | None:
        """What the hub says against the card, which then stays behind. Raises MirrorError: the hub's client raises what
        its HTTP library does, and nothing of it may end this."""
        from huggingface_hub import HfApi

        hub, refused = HfApi(), None
        try:
            hub.create_repo(self.repository, exist_ok=True, private=True)
            try:
                self._upload(hub, folder, checkpoint)
            except ValueError as error:
                if REFUSED_CARD not in str(error):
                    raise
                (folder / CARD).unlink()
                refused = self._without_card(" ".join(str(error).split()))
                self._upload(hub, folder, checkpoint)
        except Exception as error:
            raise MirrorError(self._failed(error)) from error
        return refused

    def _upload(self, hub: Any, folder: Path, checkpoint: str) -> None:
        hub.upload_folder(repo_id=self.repository, folder_path=folder, delete_patterns=STALE,
                          commit_message=f"{self.run_folder.resolve().name}: {checkpoint}")

    def _failed(self, error: Exception) -> str:
        said = (str(error).strip() or repr(error)).splitlines()[0]
        sentence = f"hub repository '{self.repository}': {said}"
        if _is_refused(error):
            sentence += "; log in with `hf auth login` (a token that may write), or correct training.hub_model_id"
        if sentence != self._record.error:
            self._report(sentence)
        self._note(tries=self._record.tries + 1, error=sentence)
        return sentence

    def _note_nothing_to_do(self, ended: bool) -> None:
        """After the run's end it is on record: whoever may end the machine then waits for that."""
        if ended:
            self._note(tries=0, error=None if self._record.tries else self._record.error, time=time.time())

    def _note(self, **changes: Any) -> None:
        self._record = replace(self._record, **changes)
        path = record_path(self.run_folder)
        path.parent.mkdir(exist_ok=True)
        directory.write_text(path, json.dumps(asdict(self._record), indent=1))


def refuse_without_token(repository: str) -> None:
    """Raises ConfigError where nobody is logged in: a run would train for days and have nowhere to go."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise ConfigError(f"training.hub_model_id is '{repository}', but there is no token for the hub; set HF_TOKEN "
                          "or run `hf auth login`, or leave training.hub_model_id out")


def record_path(run_folder: Path) -> Path:
    return run_folder / "mirrors" / "hub.json"


def read_record(run_folder: Path) -> HubRecord | None:
    """None where there is none that can be read."""
    try:
        return HubRecord(**json.loads(record_path(run_folder).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _link(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(path, target)


def _pause(error: Exception) -> bool | float:
    """Whether to try again, or after how many seconds."""
    if not isinstance(error, MirrorError):
        return False
    return REFUSED_SECONDS if _is_refused(error.__cause__) else True


def _is_refused(error: BaseException | None) -> bool:
    """By the hub, or by its client, which knows what no repository can be called."""
    from huggingface_hub.errors import HFValidationError

    status = getattr(getattr(error, "response", None), "status_code", None)
    return status in REFUSED or isinstance(error, HFValidationError)

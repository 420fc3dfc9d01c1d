"""What `watch` does for a machine that cannot help itself: a dead guard, lost secrets, a limit that it cannot enforce.

The machine's own verbs do it (`auricle remote machine boot` and `secrets`); ending a machine from here needs the
provider's key in this environment.
"""

import json
from collections.abc import Mapping

from auricle.core.errors import AuricleError
from auricle.remote.connection import said
from auricle.remote.look import Look, Run
from auricle.remote.place import Place
from auricle.remote.renting.accounts import BY_HAND, provider_of
from auricle.remote.start import secrets_of

REVIVE_SECONDS = 60.0
"""A guard that is dead for so long is not started again by the machine itself."""
HELP_SECONDS = 120.0
"""A machine that still runs so long after its run ended at a limit cannot end itself."""
BOOT_SECONDS, SECRETS_SECONDS = 180.0, 600.0


def needs_guard(found: Look, run: Run) -> bool:
    return run.exit is None and found.heartbeat_age(run) > REVIVE_SECONDS


def revive(place: Place) -> tuple[bool, str]:
    """Goes on with what a restart of the machine, or its memory's end, broke off. → (whether it does, what came of it).
    Raises RemoteError."""
    done = place.auricle(["remote", "machine", "boot"], timeout=BOOT_SECONDS)
    last = done.text.strip().splitlines()[-1:] or [said(done.stderr).removeprefix("error: ") or "it did not say more"]
    return done.code == 0, f"its machine was told to go on: {last[0]}"


def lost_secrets(run: Run, environ: Mapping[str, str]) -> dict[str, str]:
    """What a running run lacks, where all of it is set here; empty where nothing can be done."""
    if run.exit or run.runner is None:
        return {}
    lacks = sorted(set(run.job.secrets) - set(run.runner.secrets))
    found = secrets_of(lacks, environ)
    return found if len(found) == len(lacks) else {}


def reconnect(place: Place, run: Run, secrets: Mapping[str, str]) -> tuple[bool, str]:
    """Hands secrets over; the run saves, ends and goes on with them. → (whether it does, what came of it). Raises
    RemoteError."""
    words = ["remote", "machine", "secrets", run.name, "--wait", f"{SECRETS_SECONDS:g}"]
    done = place.auricle(words, stdin=json.dumps(dict(secrets)).encode(), timeout=2 * SECRETS_SECONDS)
    if done.code:
        return False, f"its secrets were not taken: {said(done.stderr)}"
    return True, said(done.text)


def is_overdue(found: Look, run: Run) -> bool:
    """Whether a limit was reached, all runs ended, and the machine goes on all the same."""
    state, limits = run.state, run.job.limits
    if state is None or run.exit is None or not state.limit or limits.on_limit == "keep":
        return False
    return all(other.exit for other in found.runs) and found.clock - run.exit.time > HELP_SECONDS


def alone(found: Look, run: Run, copied: Mapping[str, int | None]) -> list[str]:
    """Names of the runs whose newest checkpoint the machine's disk alone holds, so that `run`'s limit does not end it:
    of a release every run counts, of a stop this one.

    `copied`: run's key → step of its newest checkpoint that is verified here.
    """
    release = run.job.limits.on_limit == "release"
    return [one.name for one in (found.runs if release else [run])
            if not _is_elsewhere(one, copied.get(one.key)) or (release and not is_all_told(one))]


def _is_elsewhere(run: Run, copied_step: int | None) -> bool:
    saved, safe = (run.state.saved_step, run.state.safe_step) if run.state else (None, None)
    return saved is None or max(-1 if step is None else step for step in (safe, copied_step)) >= saved


def is_all_told(run: Run) -> bool:
    """Whether a run has ended and its guard looked since: what it saved after the last heartbeat is not known."""
    return run.state is not None and run.exit is not None and run.state.time >= run.exit.time


def end_machine(place: Place, found: Look, run: Run, copied: Mapping[str, int | None],
                environ: Mapping[str, str]) -> tuple[bool, str]:
    """Stops or releases a machine as `on_limit` says. `copied`: see `alone`. → (whether it was done, what came of it,
    or "")"""
    machine = place.project.machine(place.connection.target)
    if machine.provider == BY_HAND or machine.id is None:
        return False, ""
    if names := alone(found, run, copied):
        return False, ("its limit is reached, and the machine is not ended and costs on: it alone holds the newest "
                       f"checkpoint of {', '.join(names)}")
    keep_disk = run.job.limits.on_limit == "stop"
    try:
        provider = provider_of(machine.provider, environ)
        if keep_disk and not provider.can_stop:
            return False, ("its limit is reached, and its provider can release a machine and not stop it (on_limit is "
                           f"stop): it goes on and costs. auricle remote release {machine.address}")
        provider.release(machine.id, keep_disk=keep_disk)
    except AuricleError as error:
        return False, f"its limit is reached and it could not be ended from here: {error}"
    if not keep_disk:
        place.project.forget(machine.address)
    return True, f"{'stopped, its disk is kept' if keep_disk else 'released, its disk is deleted'}. {provider.billing}"

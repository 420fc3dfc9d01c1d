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


def revive(place: Place) -> str:
    """Goes on with what a restart of the machine, or its memory's end, broke off. → what came of it"""
    done = place.auricle(["remote", "machine", "boot"], timeout=BOOT_SECONDS)
    last = done.text.strip().splitlines()[-1:] or [said(done.stderr).removeprefix("error: ") or "it did not say more"]
    return f"its machine was told to go on: {last[0]}"


def lost_secrets(run: Run, environ: Mapping[str, str]) -> dict[str, str]:
    """What a running run lacks, where all of it is set here; empty where nothing can be done."""
    if run.exit or run.runner is None:
        return {}
    lacks = sorted(set(run.job.secrets) - set(run.runner.secrets))
    found = secrets_of(lacks, environ)
    return found if len(found) == len(lacks) else {}


def reconnect(place: Place, run: Run, secrets: Mapping[str, str]) -> str:
    """Hands secrets over; the run saves, ends and goes on with them. → what came of it"""
    words = ["remote", "machine", "secrets", run.name, "--wait", f"{SECRETS_SECONDS:g}"]
    done = place.auricle(words, stdin=json.dumps(dict(secrets)).encode(), timeout=2 * SECRETS_SECONDS)
    return said(done.text) if done.code == 0 else f"its secrets were not taken: {said(done.stderr)}"


def is_overdue(found: Look, run: Run, copied_step: int | None) -> bool:
    """Whether a limit was reached, all ended, the newest checkpoint is elsewhere, and the machine goes on all the same.

    `copied_step`: of the newest checkpoint that is verified here.
    """
    state, limits = run.state, run.job.limits
    if state is None or run.exit is None or not state.limit or limits.on_limit == "keep":
        return False
    saved = state.saved_step
    is_elsewhere = saved is None or max(state.safe_step or -1, -1 if copied_step is None else copied_step) >= saved
    return (is_elsewhere and all(other.exit for other in found.runs)
            and found.clock - run.exit.time > HELP_SECONDS)


def end_machine(place: Place, run: Run, environ: Mapping[str, str]) -> tuple[bool, str]:
    """Stops or releases a machine as `on_limit` says. → (whether it was done, what came of it, or "")"""
    machine = place.project.machine(place.connection.target)
    if machine.provider == BY_HAND or machine.id is None:
        return False, ""
    keep_disk = run.job.limits.on_limit == "stop"
    try:
        provider = provider_of(machine.provider, environ)
        if keep_disk and not provider.can_stop:
            return False, ""
        provider.release(machine.id, keep_disk=keep_disk)
    except AuricleError as error:
        return False, f"its limit is reached and it could not be ended from here: {error}"
    if not keep_disk:
        place.project.forget(machine.address)
    return True, f"{'stopped, its disk is kept' if keep_disk else 'released, its disk is deleted'}. {provider.billing}"

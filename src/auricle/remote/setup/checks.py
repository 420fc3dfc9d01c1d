"""What speaks for and against a machine: one small function a question, over facts that were asked for already."""

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from auricle.remote.setup.deploy import gpu_line
from auricle.remote.setup.environment import venv_package
from auricle.remote.setup.facts import Facts
from auricle.remote.setup.probes import Tried

if TYPE_CHECKING:
    from auricle.core.config import RemoteConfig

DISK_GB, FULL_GB, SHM_GB = 20.0, 1.0, 1.0
SKEW_SECONDS = 5.0
IMPLAUSIBLE_FSYNCS = 20_000.0
"""A second. The fastest drives that survive a power cut confirm fewer."""
Result = Literal["ok", "warning", "fails"]


@dataclass(frozen=True)
class Check:
    """A row of the doctor's table."""

    check: str
    result: Result
    what: str
    todo: str = ""


def rsync(facts: Facts) -> Check:
    if shutil.which("rsync") is None:
        return Check("rsync", "fails", "not installed here", "apt install rsync, on this machine")
    if "rsync" in facts.commands:
        return Check("rsync", "ok", "here and there")
    return _missing(facts, "rsync", Check("rsync", "fails", "not installed there", "apt install rsync, there"))


def tmux(facts: Facts) -> Check:
    if "tmux" in facts.commands:
        return Check("tmux", "ok", "there")
    return _missing(facts, "tmux", Check("tmux", "warning", "not installed there",
                                         "nothing: runs go on without it, and attach shows their log"))


def _missing(facts: Facts, package: str, otherwise: Check) -> Check:
    """deploy installs it, or what holds otherwise."""
    if facts.may_install and "apt-get" in facts.commands:
        return Check(package, "warning", "not installed there", "nothing: deploy installs it")
    return otherwise


def python(facts: Facts) -> Check:
    found = facts.python
    if found is None:
        known = ", ".join(dict.fromkeys(other.shown for other in facts.pythons))
        return Check("Python", "fails", f"{known or 'none'} there; expected 3.11 or newer",
                     "rent it with an image of Python 3.11 or newer, or apt install python3.11 python3.11-venv")
    if found.has_venv:
        return Check("Python", "ok", f"{found.shown}, {found.path}")
    package = venv_package(found)
    lacks = f"{found.shown}, {found.path}, without the venv module"
    return _missing(facts, "Python", Check("Python", "fails", lacks, f"apt install {package}, there"))


def disk(facts: Facts) -> Check:
    if facts.unwritable:
        return Check("disk", "fails", f"{facts.unwritable} cannot be written by this user",
                     "name another place with --folder")
    if facts.disk_gb is None:
        return Check("disk", "warning", f"no figure for {facts.folder}")
    what = f"{facts.disk_gb:.1f} GB free at {facts.folder}"
    if facts.disk_gb >= DISK_GB:
        return Check("disk", "ok", what)
    result: Result = "fails" if facts.disk_gb < FULL_GB else "warning"
    return Check("disk", result, what, f"free some, or rent {DISK_GB:.0f} GB and more: packages, data and checkpoints")


def shared_memory(facts: Facts) -> Check:
    if facts.shm_gb is None or facts.shm_gb >= SHM_GB:
        return Check("/dev/shm", "ok", f"{facts.shm_gb:.1f} GB" if facts.shm_gb is not None else "not known")
    return Check("/dev/shm", "warning", f"{facts.shm_gb:.2f} GB, too little for processes that load data",
                 "training.dataloader_num_workers=0, or a container with --shm-size")


def gpu(facts: Facts) -> Check:
    if facts.gpus:
        return Check("GPU", "ok", f"{gpu_line(facts)}{f', CUDA {facts.cuda}' if facts.cuda else ''}")
    if facts.has_nvidia_smi:
        return Check("GPU", "fails", "nvidia-smi lists none", "restart the machine, or rent another one")
    return Check("GPU", "warning", "none: training runs on the processor")


def torch(facts: Facts, words: str, misfit: str | None, found: Mapping[str, Any] | None) -> Check:
    """`misfit`: why no build can be chosen; `found`: what the environment there has, with `error` where it fails."""
    if misfit:
        return Check("torch", "fails", misfit)
    if found is None:
        return Check("torch", "ok", f"deploy will install {words}")
    if "error" in found:
        return Check("torch", "fails", f"installed, and does not run: {found['error']}", "deploy again")
    if facts.gpus and not found["sees_gpu"]:
        return Check("torch", "fails", f"{found['torch']} does not see the GPU",
                     f"deploy again with --torch \"{words}\"")
    return Check("torch", "ok", f"{found['torch']}{', sees the GPU' if found['sees_gpu'] else ''}")


def clock(facts: Facts) -> Check:
    skew = facts.skew_seconds
    if abs(skew) <= SKEW_SECONDS:
        return Check("clock", "ok", "as here")
    return Check("clock", "warning", f"{abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} ours",
                 "set it there (timedatectl set-ntp true): costs are counted by it")


def durability(tried: Tried) -> Check:
    if tried.disk_error:
        return Check("fsync", "fails", f"no file can be written durably: {tried.disk_error}",
                     "free some disk, or name another place with --folder")
    if tried.fsyncs is None:
        return Check("fsync", "warning", "not measured: no Python there")
    what = f"{tried.fsyncs:,.0f} writes a second confirmed"
    if tried.fsyncs <= IMPLAUSIBLE_FSYNCS:
        return Check("fsync", "ok", what)
    return Check("fsync", "warning", f"{what}: memory, or a disk that confirms what it has not written",
                 "keep a mirror: after a power cut checkpoints may be gone")


def network(tried: Tried) -> Check:
    if not tried.network:
        return Check("network", "warning", "not tried: no Python there")
    wrong = [f"{host}: {said}" for host, said in tried.network.items() if said != "ok"]
    if not wrong:
        return Check("network", "ok", f"reaches {', '.join(tried.network)}")
    return Check("network", "warning", "; ".join(wrong), "what is downloaded must be there already: packages, models")


def price(known: float | None) -> Check:
    if known is None:
        return Check("price", "warning", "not known: costs cannot be counted", "--price 0.44, at deploy or start")
    return Check("price", "ok", f"{known:g} an hour")


def budget(config: "RemoteConfig") -> Check:
    limits = [f"max_cost {config.max_cost:g}" if config.max_cost is not None else "",
              f"max_hours {config.max_hours:g}" if config.max_hours is not None else "",
              f"idle_minutes {config.idle_minutes:g}" if config.idle_minutes is not None else ""]
    said = ", ".join(filter(None, limits))
    if config.max_cost is None and config.max_hours is None:
        return Check("budget", "warning", f"{said or 'no limit'}; a run that hangs costs until somebody looks",
                     "start with --max-cost 10, or --max-hours 12")
    return Check("budget", "ok", f"{said}, then {config.on_limit}")


def boot_hook(facts: Facts) -> Check:
    if facts.hooks:
        return Check("after a reboot", "ok", f"{facts.hooks[0]} goes on with runs")
    return Check("after a reboot", "warning", "nothing goes on with runs: no onstart.sh, post_start.sh or cron",
                 "start again by hand after a reboot")


def ending(facts: Facts, power: Mapping[str, Any] | None, provider: str = "ssh") -> Check:
    """Whether the machine can end its own costs. `power`: what its environment found, where it has one; `provider`:
    that it was rented from."""
    name = "ends itself"
    if power:
        verbs = [verb for verb, can in (("stopped", power["can_stop"]), ("released", power["can_release"])) if can]
        if verbs:
            return Check(name, "ok", f"{power['provider']}: can be {' and '.join(verbs)} from inside")
    for maker, (identity, key) in {"RunPod": ("RUNPOD_POD_ID", "RUNPOD_API_KEY"),
                                      "Vast.ai": ("CONTAINER_ID", "CONTAINER_API_KEY")}.items():
        if not power and identity in facts.provided and key in facts.provided:
            return Check(name, "ok", f"{maker}: its key is in the machine")
    return Check(name, "warning", "no provider's key is in the machine: at a limit the run ends, and the machine "
                 "goes on costing", "end it in your provider's console when the run is done" if provider == "ssh"
                 else "auricle remote release, from here")


def secrets(asked: Sequence[str], there: Collection[str]) -> Check:
    """Names alone."""
    lacking = ", ".join(name for name in asked if name not in there)
    return Check("secrets", "ok", f"set here: {', '.join(there) or 'none'}{f'; not set: {lacking}' if lacking else ''}")


def of_facts(facts: Facts) -> Iterator[Check]:
    for check in (rsync, python, tmux, disk, shared_memory, gpu):
        yield check(facts)


def worst(checks: Sequence[Check]) -> bool:
    """Whether one fails."""
    return any(check.result == "fails" for check in checks)

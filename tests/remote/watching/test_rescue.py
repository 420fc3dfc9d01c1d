"""What watch does for machines that cannot help themselves, through real SSH servers."""

import json
import time
from pathlib import Path

import pytest

from auricle.remote.connection import RemoteError, Unreachable
from auricle.remote.machine import job
from auricle.remote.machine.job import Exit
from auricle.remote.providers import ProviderError
from auricle.remote.watching import rescue, watched
from auricle.remote.watching import watch as watching
from auricle.remote.watching.memory import remembered
from tests.hosts import laptop, needs_hosts
from tests.mirrored import add_checkpoint
from tests.remote.test_pull import HERE, RUN, good, make_run
from tests.remote.there import add_run, beat, place
from tests.remote.watching.test_watch import DEAD, Post, Running, machine, no_pauses, post, until

__all__ = ["laptop", "machine", "no_pauses", "post"]
pytestmark = needs_hosts
LIMIT = "max_cost 1 is reached"


def fake(project, script):
    """An environment whose Python is a shell script."""
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)


class FakeProvider:
    can_stop, billing = True, "Its disk costs."

    def __init__(self):
        self.calls, self.error, self.asked = [], None, lambda: None

    def release(self, machine_id, *, keep_disk):
        self.asked()
        self.calls.append((machine_id, keep_disk))
        if self.error:
            raise ProviderError(self.error)


@pytest.fixture
def provider(machine, laptop, monkeypatch):
    """Of the machine, which may be ended as soon as its runs have."""
    provider = FakeProvider()
    monkeypatch.setattr(rescue, "provider_of", lambda name, environ: provider)
    monkeypatch.setattr(rescue, "HELP_SECONDS", -1.0)
    laptop.remember(machine.target, provider="vast", id="7", folder=str(machine.project("speech")))
    return provider


def add_limited(machine, run=RUN, *, on_limit="release", **state):
    """A run that a limit ended, and whose guard could not end the machine."""
    state = {"saved_step": 500, "safe_step": 500, **state}
    return add_run(machine.project("speech"), run, exit_code=75, reason="max_cost", limit=LIMIT,
                   budget={"on_limit": on_limit, "max_cost": 1.0}, **state)


class TestGuard:
    def test_a_machine_whose_guard_stays_dead_is_told_to_go_on_once(self, machine, laptop, post):
        project = machine.project("speech")
        fake(project, 'echo "$@" >> calls; echo "[now] voxformer: goes on"')
        add_run(project, age=DEAD)
        there = place(machine, laptop)
        assert post.once(there) == ["guard", "guard"]
        assert "told to go on: [now] voxformer: goes on" in str(post.alarms[1])
        assert post.once(there) == []
        assert (project / "calls").read_text() == "-m auricle remote machine boot\n"

    def test_what_could_not_be_told_is_told_again_after_a_while(self, machine, laptop, post, monkeypatch):
        project, tries, real = machine.project("speech"), [], rescue.revive
        fake(project, 'echo "$@" >> calls; [ -f mended ] || { echo broken >&2; exit 1; }; echo goes on')
        add_run(project, age=DEAD)

        def revive(there):
            tries.append(there)
            if len(tries) == 1:
                raise Unreachable("the link is cut")
            return real(there)

        monkeypatch.setattr(rescue, "revive", revive)
        there = place(machine, laptop)
        assert post.once(there) == ["guard", "guard"]
        assert "is tried again: the link is cut" in str(post.alarms[1])
        assert post.once(there) == []
        assert len(tries) == 1  # not at once
        monkeypatch.setattr(watched, "RETRY_SECONDS", 0.0)
        assert post.once(there) == ["guard"]
        assert "broken" in str(post.alarms[2])
        assert post.once(there) == []  # tried, and told only once
        (project / "mended").touch()
        assert post.once(there) == ["guard"]
        assert post.once(there) == []
        assert (project / "calls").read_text().count("boot") == 3

    def test_a_run_whose_machine_cannot_be_told_is_copied_all_the_same(self, machine, laptop, post):
        make_run(machine)
        add_run(machine.project("speech"), age=DEAD, events_bytes=9, saved_step=400)  # and has no environment
        post.once(place(machine, laptop))
        assert good(HERE) == ["step-000000200", "step-000000400"]


class TestSecrets:
    def test_lost_secrets_are_handed_back_on_stdin_alone(self, machine, laptop):
        project = machine.project("speech")
        fake(project, 'echo "$@" >> calls; cat > given; echo "run \'voxformer\' goes on with HF_TOKEN"')
        add_run(project, secrets=["HF_TOKEN", "WANDB_API_KEY"], runner={"secrets": ["WANDB_API_KEY"]})
        post = Post(laptop, {"HF_TOKEN": "hf_unique", "WANDB_API_KEY": "w"})
        there = place(machine, laptop)
        assert post.once(there) == ["secrets"]
        assert post.once(there) == []
        assert json.loads((project / "given").read_text()) == {"HF_TOKEN": "hf_unique"}
        assert (project / "calls").read_text() == "-m auricle remote machine secrets voxformer --wait 600\n"
        assert "hf_unique" not in str(post.alarms) + "".join(post.lines)
        written = b"".join(path.read_bytes() for path in laptop.root.rglob("*") if path.is_file())
        assert b"hf_unique" not in written

    def test_secrets_that_are_not_all_here_are_not_handed_over(self, machine, laptop):
        project = machine.project("speech")
        fake(project, 'echo "$@" >> calls')
        add_run(project, secrets=["HF_TOKEN", "WANDB_API_KEY"])
        assert Post(laptop, {"HF_TOKEN": "hf"}).once(place(machine, laptop)) == []
        assert not (project / "calls").exists()

    def test_secrets_that_were_not_taken_are_handed_over_again(self, machine, laptop, monkeypatch):
        monkeypatch.setattr(watched, "RETRY_SECONDS", 0.0)
        project = machine.project("speech")
        fake(project, 'cat > given; echo x >> calls; [ -f mended ] || { echo broken >&2; exit 1; }; echo goes on')
        add_run(project, secrets=["HF_TOKEN"])
        post, there = Post(laptop, {"HF_TOKEN": "hf"}), place(machine, laptop)
        assert (post.once(there), post.once(there)) == (["secrets"], [])
        (project / "mended").touch()
        assert (post.once(there), post.once(there)) == (["secrets"], [])
        assert (project / "calls").read_text().count("x") == 3


class TestEnd:
    @pytest.mark.parametrize(("on_limit", "safe", "expected"), [
        ("stop", 500, [("7", True)]), ("release", 500, [("7", False)]), ("keep", 500, []), ("release", 400, []),
        ("stop", 400, [])])
    def test_a_machine_that_cannot_end_itself_is_ended_from_here_once_its_run_is_elsewhere(
            self, machine, laptop, post, provider, on_limit, safe, expected):
        add_limited(machine, on_limit=on_limit, safe_step=safe)
        there = place(machine, laptop)
        told = post.once(there) + post.once(there)
        assert provider.calls == expected
        assert told.count("machine") == (on_limit != "keep")
        if not expected and on_limit != "keep":
            assert "it alone holds the newest checkpoint of voxformer" in post.text("machine")

    def test_a_machine_on_which_another_run_goes_on_is_let_be(self, machine, laptop, post, provider):
        add_limited(machine)
        add_run(machine.project("speech"), "another")
        post.once(place(machine, laptop))
        assert provider.calls == []

    def test_a_release_waits_until_the_other_runs_were_copied(self, machine, laptop, post, provider):
        """Runs come in the order of their names: the one with the limit is first."""
        add_limited(machine, "apple")
        make_run(machine, "zebra")
        add_run(machine.project("speech"), "zebra", exit_code=0, saved_step=400, safe_step=None, events_bytes=9)
        here = []
        provider.asked = lambda: here.extend(good(Path("outputs/zebra")))
        post.once(place(machine, laptop))
        assert provider.calls == [("7", False)]
        assert here == ["step-000000200", "step-000000400"]

    @pytest.mark.parametrize(("on_limit", "expected"), [("release", []), ("stop", [("7", True)])])
    def test_a_disk_that_alone_holds_another_run_is_not_deleted(self, machine, laptop, post, provider, on_limit,
                                                                expected):
        make_run(machine, "apple")
        add_run(machine.project("speech"), "apple", exit_code=0, saved_step=400, safe_step=None, events_bytes=9)
        Path("outputs/apple").mkdir(parents=True)
        Path("outputs/apple/notes.txt").write_text("mine")  # so that it is not copied
        add_limited(machine, "zebra", on_limit=on_limit)
        post.once(place(machine, laptop))
        assert provider.calls == expected
        assert ("alone holds the newest checkpoint of apple" in post.text("machine")) == (on_limit == "release")

    def test_what_was_saved_after_the_last_heartbeat_is_not_deleted(self, machine, laptop, post, provider,
                                                                    monkeypatch):
        files = add_limited(machine)
        Exit(code=75, reason="max_cost", time=time.time() + 5.0).write(files / job.EXIT)
        monkeypatch.setattr(rescue, "HELP_SECONDS", -10.0)
        post.once(place(machine, laptop))
        assert provider.calls == []

    def test_what_was_saved_after_the_last_heartbeat_is_copied(self, machine, laptop, post):
        run, there = make_run(machine), place(machine, laptop)
        with remembered(laptop.folder) as memory:
            watching = post.make(memory)(there)
            files = add_run(machine.project("speech"), events_bytes=9, saved_step=400)
            watching.look()
            watching.carry()
            add_checkpoint(run, 500, part=b"frozen")
            Exit(code=0, reason="done", time=time.time()).write(files / job.EXIT)
            watching.look()
            watching.carry()
        assert "step-000000500" in good(HERE)

    def test_a_run_that_began_while_others_were_copied_is_let_be(self, machine, laptop, post, provider, monkeypatch):
        make_run(machine)
        add_limited(machine, saved_step=400, safe_step=400, events_bytes=9)
        real = watched.pull

        def pull(*given, **options):
            add_run(machine.project("speech"), "another")
            return real(*given, **options)

        monkeypatch.setattr(watched, "pull", pull)
        post.once(place(machine, laptop))
        assert provider.calls == []
        assert good(HERE)

    def test_the_copy_of_a_run_that_began_anew_does_not_count(self, machine, laptop, post, provider, monkeypatch):
        make_run(machine)
        add_run(machine.project("speech"), events_bytes=9, saved_step=400)
        with remembered(laptop.folder) as memory:
            watching = post.make(memory)(place(machine, laptop))
            watching.look()
            watching.carry()
            assert good(HERE)
            monkeypatch.setattr(watched, "pull", lambda *_, **__: (_ for _ in ()).throw(RemoteError("another run")))
            add_limited(machine, saved_step=300, safe_step=None, events_bytes=10)
            watching.look()
            watching.carry()
        assert provider.calls == []

    def test_a_provider_that_fails_is_asked_again_and_told_of_once(self, machine, laptop, post, provider, monkeypatch):
        add_limited(machine, on_limit="stop")
        provider.error, there = "Vast.ai: cannot be reached", place(machine, laptop)
        assert "machine" in post.once(there)
        assert post.text("machine").endswith("could not be ended from here: Vast.ai: cannot be reached")
        assert post.once(there) == []
        assert len(provider.calls) == 1  # not at once
        monkeypatch.setattr(watched, "RETRY_SECONDS", 0.0)
        assert post.once(there) == []
        provider.error = None
        assert post.once(there) == ["machine"]
        assert post.once(there) == []
        assert len(provider.calls) == 3

    def test_a_provider_that_cannot_stop_is_named_as_the_reason(self, machine, laptop, post, provider):
        provider.can_stop = False
        add_limited(machine, on_limit="stop")
        there = place(machine, laptop)
        assert (post.once(there) + post.once(there)).count("machine") == 1
        assert f"it goes on and costs. auricle remote release {machine.address}" in post.text("machine")
        assert provider.calls == []

    def test_a_machine_that_was_stopped_is_not_lost_and_is_watched_when_it_is_back(
            self, machine, laptop, post, provider, monkeypatch):
        monkeypatch.setattr(rescue, "REVIVE_SECONDS", 1e9)
        monkeypatch.setattr(watching, "SAVE_SECONDS", 0.2)
        project = machine.project("speech")
        add_limited(machine, on_limit="stop")
        add_limited(machine, "another", on_limit="stop")
        there, gone = place(machine, laptop), []
        real = watched.look

        def look(*given):
            if gone:
                raise Unreachable("nobody answers")
            return real(*given)

        monkeypatch.setattr(watched, "look", look)
        monkeypatch.setattr(watched, "PAUSE_SECONDS", 0.0)
        with Running(post, laptop, [there]):
            until(lambda: "machine" in post.kinds)
            gone.append(True)
            until(lambda: "lost" in json.loads((laptop.folder / "watch.json").read_text())["holding"].get(
                machine.address, []))
            gone.clear()
            until(lambda: "back" in post.kinds)
            assert "lost" not in post.kinds
            time.sleep(1.0)
            assert provider.calls == [("7", True)]  # who started it again may look around
            gone.append(True)
            until(lambda: "lost" in post.kinds)
            gone.clear()
            add_run(project, age=DEAD)
            until(lambda: "guard" in post.kinds)

    def test_a_machine_that_is_stopped_and_goes_on_at_once_is_watched(self, machine, laptop, post, provider):
        files = add_limited(machine, on_limit="stop")
        there = place(machine, laptop)
        assert "machine" in post.once(there)
        (files / job.EXIT).unlink()
        beat(files)
        post.once(there)
        machine.kill()
        assert "lost" in post.once(there)

"""What a machine goes on with after a restart, and who watches it where nothing does."""

import pytest

from auricle.core.errors import RunFolderError
from auricle.remote.machine import launch, processes, revive
from auricle.remote.machine.job import Budget, Stop
from tests.remote.machine import trainers
from tests.remote.machine.pods import dead_runners, full, pod  # noqa: F401


def test_after_a_restart_a_run_that_does_not_start_leaves_the_machine_watched(pod, dead_runners):  # noqa: F811
    trainers.written(pod.project, pod.job(budget=Budget(idle_minutes=30.0)))
    said: list[str] = []
    revive.boot(pod.project, said.append)
    assert pod.guard
    assert pod.exit is None  # its guard tries again
    assert "its runner did not start" in said[0]
    assert len(said) == 1


def test_after_a_restart_the_newest_run_is_watched_where_nothing_goes_on(pod, monkeypatch):  # noqa: F811
    trainers.written(pod.project, pod.job(created=1.0))
    newest = trainers.written(pod.project, pod.job(run="newest", created=2.0))
    Stop(reason="", time=0.0).write(newest / "stop.json")
    watched = []

    def refuse(*_):
        raise RunFolderError("it does not start")

    monkeypatch.setattr(launch, "again", refuse)
    monkeypatch.setattr(launch, "watch_again", lambda project, folder, idle_only: watched.append((folder, idle_only)))
    revive.boot(pod.project, full)  # its log is on the full disk, too
    assert watched == [(newest, True)]


def test_after_a_restart_one_that_goes_on_is_enough(pod, monkeypatch):  # noqa: F811
    for name in ("broken", "good"):
        trainers.written(pod.project, pod.job(run=name))

    def refuse(project, folder, job, secrets):
        if job.run == "broken":
            raise RunFolderError("it does not start")

    for order in (1.0, -1.0):
        monkeypatch.setattr(revive, "jobs", lambda project, order=order: sorted(
            processes.jobs(project), key=lambda entry: order * len(entry[1].run)))
        monkeypatch.setattr(launch, "again", refuse)
        monkeypatch.setattr(launch, "watch_again", lambda *_, **__: pytest.fail("a run goes on"))
        revive.boot(pod.project, lambda sentence: None)

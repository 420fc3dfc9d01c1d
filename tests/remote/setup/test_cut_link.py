"""The cable is pulled in mid-deploy: the same command goes on once it is back."""

import os
import shutil
import threading
import time

import pytest

from auricle.core.config import RemoteConfig
from auricle.remote.connection import Connection, RemoteError, Unreachable
from auricle.remote.place import Place
from auricle.remote.setup.deploy import deploy
from auricle.remote.setup.sync import sync
from tests.hosts import host, laptop, needs_hosts, tools, use  # noqa: F401
from tests.namespaces import far_machine, needs_namespaces
from tests.pythons import stub_python

pytestmark = [*needs_hosts, needs_namespaces, pytest.mark.slow, pytest.mark.long]


@pytest.fixture
def far():
    with far_machine() as machine:
        yield machine


@pytest.fixture
def pod(far, tmp_path, monkeypatch):
    path = tools(tmp_path / "tools", without=("python3.12", "python3.13", "nvidia-smi"),
                 also={"python3.11": stub_python(tmp_path / "stub")})
    with host(tmp_path / "pod", far=far, path=path) as machine:
        use(monkeypatch, machine)
        yield machine


def test_a_large_file_goes_on_where_it_broke_off(laptop, far, pod, tmp_path, monkeypatch):  # noqa: F811
    slow = tools(tmp_path / "slow", without=("rsync",),
                 also={"rsync": f'exec {shutil.which("rsync")} --bwlimit=20m "$@"'})  # so that the cut is in its midst
    monkeypatch.setenv("PATH", slow)
    content = os.urandom(100_000_000)
    (laptop.root / "large").write_bytes(content)
    place = Place(Connection(pod.target, laptop), laptop)
    cut_at = []

    def cut(count):
        if count > 10_000_000 and not cut_at:
            cut_at.append(count)
            far.cut()

    with pytest.raises(Unreachable, match="what went over is kept, the same command goes on"):
        sync(place, cut)
    assert not (pod.project("speech") / "large").exists()
    far.mend()
    done = sync(place)
    assert done.moved == 1
    assert done.bytes < len(content) - 5_000_000
    assert (pod.project("speech") / "large").read_bytes() == content
    assert not list((pod.project("speech") / ".auricle/partial").glob("*"))
    place.connection.close()


def test_an_installation_goes_on_in_the_dark_and_is_joined(laptop, far, pod):  # noqa: F811
    (laptop.root / "requirements.txt").write_text("auricle\n")
    place = Place(Connection(pod.target, laptop), laptop)
    kept = pod.project("speech") / ".auricle"
    kept.mkdir(parents=True)
    (kept / "pip-waits").write_text("")
    errors = []

    def first():
        try:
            deploy(place, RemoteConfig(), lambda line: None)
        except RemoteError as error:
            errors.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    while not (kept / "pip-calls").exists():
        assert thread.is_alive()
        time.sleep(0.02)
    far.cut()
    thread.join(90)
    (kept / "pip-waits").unlink()
    far.mend()
    assert isinstance(errors[0], Unreachable)
    assert "The installation goes on there; the same command waits for it" in str(errors[0])
    lines = []
    deploy(Place(Connection(pod.target, laptop), laptop), RemoteConfig(), lines.append)
    assert lines[-1] == "Deployment finished!"
    assert len((kept / "pip-calls").read_text().splitlines()) == 2
    place.connection.close()

"""`auricle remote deploy` and `doctor` as they are typed."""

import json

import pytest
from typer.testing import CliRunner

from auricle.cli.main import app
from tests.hosts import give_environment, host, laptop, needs_hosts, use  # noqa: F401

pytestmark = needs_hosts


def typed(*words):
    return CliRunner().invoke(app, ["remote", *map(str, words)])


@pytest.fixture
def pod(tmp_path, monkeypatch, laptop):  # noqa: F811
    monkeypatch.setattr("auricle.remote.setup.doctor.HOSTS", ("no-such-host.invalid",))
    (laptop.root / "train.py").write_text("")
    with host(tmp_path / "pod") as machine:
        use(monkeypatch, machine)
        yield machine


def test_deploy_tells_each_step_and_what_to_type_next(pod, laptop):  # noqa: F811
    give_environment(pod.project("speech"))
    done = typed("deploy", *pod.words, "--price", "0.4")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:3] == ["Testing SSH connection...", "SSH connection successful!", "Syncing project files..."]
    assert lines[3].startswith("Project synced successfully! (1 of 1 files, ")
    assert lines[-2:] == ["Deployment finished!", f"auricle remote start {pod.address} --experiment NAME"]
    assert laptop.machine(pod.target).price_per_hour == 0.4
    again = typed("deploy", pod.address, "-e", "tiny_journey", "remote.max_cost=5")
    assert again.exit_code == 0, again.output
    assert again.stdout.splitlines()[-1].endswith("--experiment tiny_journey")
    assert laptop.machine(pod.target).price_per_hour == 0.4


def test_the_folder_is_the_flags_or_the_configurations(pod):
    assert typed("deploy", pod.address, 'remote.folder="~/configured"', "--skip-deps").exit_code == 0
    assert (pod.home / "configured/train.py").exists()
    assert typed("deploy", pod.address, "--folder", "~/typed in", "--skip-deps").exit_code == 0
    assert (pod.home / "typed in/train.py").exists()


def test_mistakes_are_one_line_and_an_exit_code(pod, laptop):  # noqa: F811
    for words, code, said in [
        (["127.0.0.1:1"], 8, "nothing listens on port 1"),
        ([pod.address, "remote.max_cots=5"], 2, "did you mean 'max_cost'"),
        ([pod.address, "-e", "tiny_jorney"], 2, "tiny_journey"),
        (["-x"], 2, ""),
    ]:
        done = typed("deploy", *words)
        assert (done.exit_code, said in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr


def test_doctor_is_a_table_a_list_and_an_exit_code(pod):
    table = typed("doctor", *pod.words)
    assert table.exit_code == 0, table.output
    assert table.stdout.splitlines()[0].split() == ["check", "result", "what", "what", "to", "do"]
    listed = typed("doctor", pod.address, "--json", "--price", "0.4")
    rows = json.loads(listed.stdout)
    assert {"check", "result", "what", "todo"} == set(rows[0])
    assert next(row for row in rows if row["check"] == "price")["what"] == "0.4 an hour"
    failed = typed("doctor", "127.0.0.1:1", "--json")
    assert failed.exit_code == 1
    assert [row["result"] for row in json.loads(failed.stdout)] == ["fails"]


def test_doctor_tries_the_mirrors_of_the_experiment(pod, tmp_path):
    give_environment(pod.project("speech"))
    done = typed("doctor", pod.address, "-e", "tiny_journey", f"mirror.targets=[{tmp_path / 'far'}]", "--json",
                 "training.price_per_hour=0.25")
    rows = {row["check"]: row for row in json.loads(done.stdout)}
    assert rows["mirror"]["result"] == "warning", rows["mirror"]
    assert "is lost with it" in rows["mirror"]["what"]
    assert rows["price"]["what"] == "0.25 an hour"

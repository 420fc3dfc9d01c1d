"""From what was typed to the job that a machine gets."""

import json
import stat
import time
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from typer.testing import CliRunner

from auricle.cli.main import app
from auricle.cli.remote_verbs.start import budget_line, composed
from auricle.core.errors import UsageError
from auricle.remote.connection import Connection, RemoteError
from auricle.remote.place import Place
from auricle.remote.project import Machine, Project
from auricle.remote.start import job_of, run_folder, secrets_of, spread, start
from auricle.remote.target import parse
from tests.hosts import host, laptop, use

__all__ = ["laptop"]
QUICKSTART = "+experiments=quickstart"
POD = Machine(address="root@pod:22", id="7", price_per_hour=0.44, since=1000.0)


def job(*overrides, machine=POD, **settings):
    words = [QUICKSTART, *overrides]
    return job_of(composed(words), words, "quickstart", machine, **settings)


def test_a_job_is_what_was_typed_with_the_price_that_is_known():
    made = job("training.max_steps=10", nproc=8)
    assert made.train == [QUICKSTART, "training.max_steps=10", "training.price_per_hour=0.44"]
    assert (made.run, made.run_folder, made.nproc) == ("quickstart", "outputs/quickstart", 8)
    assert (made.limits.price_per_hour, made.limits.since, made.limits.on_limit) == (0.44, 1000.0, "stop")
    assert made.environment["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert not made.has_mirror


@pytest.mark.parametrize(("known", "counts_from_now"), [
    ({"id": "7"}, False), ({"run": "an earlier one"}, False), ({}, True)])
def test_a_machine_that_was_named_by_hand_is_counted_from_its_first_start(known, counts_from_now):
    machine = Machine(address="root@pod:22", price_per_hour=0.44, since=1000.0, **known)
    before = time.time()
    assert (job(machine=machine).limits.since >= before) == counts_from_now
    assert counts_from_now or job(machine=machine).limits.since == 1000.0


def test_a_price_that_is_typed_wins_and_a_mirror_is_seen():
    made = job("training.price_per_hour=2", "remote.max_cost=5", "mirror.targets=[/backup]")
    assert made.train[-1] == "mirror.targets=[/backup]"
    assert (made.limits.price_per_hour, made.limits.max_cost, made.has_mirror) == (2.0, 5.0, True)


def test_a_limit_of_cost_needs_a_price():
    with pytest.raises(UsageError, match=r"remote.max_cost: the price of the machine is not known; .*--price 0.44, or "
                                         "note it with auricle remote deploy pod --price"):
        job("remote.max_cost=5", machine=Machine(address="pod"))


@pytest.mark.parametrize("name", ["a/b", "../up", ".hidden", "a\\\\b", "x" * 101])
def test_a_name_that_is_a_path_is_refused(name):
    with pytest.raises(UsageError, match="expected a name"):
        job(f"training.run_name='{name}'")


def test_a_folder_elsewhere_is_refused():
    with pytest.raises(UsageError, match=r"training.output_dir is '/data/run': a machine keeps its runs in outputs"):
        job("training.output_dir=/data/run")


@pytest.mark.parametrize("name", ["two words", "it's \"quoted\"", "שלום", "a=b,c"])
def test_other_names_are_taken_as_they_are(name):
    config = composed([QUICKSTART])
    training = config.training.model_copy(update={"run_name": name})
    assert run_folder(config.model_copy(update={"training": training}), "quickstart") == PurePosixPath("outputs") / name


def test_secrets_are_those_that_are_set():
    assert secrets_of(["A", "B", "C"], {"A": "x", "B": "", "D": "y"}) == {"A": "x"}


def test_several_machines_meet_at_the_first(tmp_path):
    project = Project(tmp_path)
    places = [Place(Connection(parse(f"root@10.0.0.{number}:22"), project), project, "/x") for number in (1, 2)]
    first, second = spread([job(), job(machine=replace(POD, price_per_hour=2.5, since=9.0))], places)
    assert (first.nnodes, first.node_rank, first.rendezvous) == (2, 0, "10.0.0.1:29500")
    assert (second.nnodes, second.node_rank, second.rendezvous) == (2, 1, "10.0.0.1:29500")
    assert [(part.limits.price_per_hour, part.limits.since) for part in (first, second)] == [(0.44, 1000.0), (2.5, 9.0)]
    assert spread([job()], places[:1])[0].rendezvous is None
    assert {part.rendezvous for part in spread([job()] * 2, places, "192.168.0.7:4000")} == {"192.168.0.7:4000"}


@pytest.mark.parametrize(("overrides", "line"), [
    ([], "30 min without training; 0.44 an hour; then the machine is stopped"),
    (["remote.max_cost=5", "remote.idle_minutes=null", "remote.on_limit=release"],
     "5 at 0.44 an hour; then the machine is released"),
    (["remote.idle_minutes=null"], "no limit; 0.44 an hour"),
])
def test_the_budget_is_told(overrides, line):
    assert budget_line(composed([QUICKSTART, *overrides]), job(*overrides)) == line


def run_start(*words):
    return CliRunner().invoke(app, ["remote", "start", *words])


@pytest.mark.usefixtures("laptop")
@pytest.mark.parametrize(("words", "said"), [
    (["pod", "--experiment", "quikstart"], "did you mean 'quickstart'"),
    (["pod", "--experiment", "quickstart", "training.max_step=3"], "did you mean 'max_steps'"),
    (["pod", "--experiment", "quickstart", "--on-limit", "explode"], "remote.on_limit"),
    (["pod", "--experiment", "quickstart", "--nnodes", "2"], "1 machines are named"),
    (["--experiment", "quickstart"], "Missing argument"),
])
def test_mistakes_are_told_before_a_machine_is_asked(words, said):
    result = run_start(*words)
    assert result.exit_code == 2
    assert said in result.stderr


STAND_IN = """#!/bin/sh
cat > "$HOME/told"
printf '%s\\n' "$@" > "$HOME/words"
echo '{"session": "auricle-x", "boot_hook": null, "resumed": false}'
"""


@pytest.mark.usefixtures("laptop")
def test_names_with_quotes_arrive_as_typed_and_secrets_on_stdin_alone(tmp_path, monkeypatch):
    with host(tmp_path / "pod") as pod:
        use(monkeypatch, pod)
        python = pod.project("speech") / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(STAND_IN)
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("HF_TOKEN", "hf_token-of-ours")
        name = "it's \"my\" run"
        result = run_start(*pod.words, "--experiment", "quickstart", "--folder", "~/speech", "--price", "0.5",
                           "training.run_name='it\\'s \"my\" run'")
        assert result.exit_code == 0, result.output
        told = json.loads((pod.home / "told").read_text())
        assert told["job"]["run"] == name
        assert told["job"]["train"][1] == "training.run_name='it\\'s \"my\" run'"
        assert told["secrets"] == {"HF_TOKEN": "hf_token-of-ours"}
        assert (pod.home / "words").read_text().split() == ["-m", "auricle", "remote", "machine", "launch"]
        assert "hf_token-of-ours" not in result.output
        assert "handed over, and written nowhere: HF_TOKEN" in result.output
        assert "30 min without training; 0.5 an hour; then the machine is stopped" in result.output
        python.write_text("#!/bin/sh\necho 'error: run: it runs already' >&2\nexit 5\n")
        refused = run_start(*pod.words, "--experiment", "quickstart", "--folder", "~/speech")
        assert (refused.exit_code, refused.stderr) == (8, f"error: {pod.address}: run: it runs already (code 5)\n")


@pytest.mark.usefixtures("laptop")
def test_attach_looks_at_the_machine_whatever_else_was_typed(monkeypatch):
    looked = []
    monkeypatch.setattr("auricle.cli.remote_verbs.start._start", lambda *_: None)
    monkeypatch.setattr("auricle.cli.remote_verbs.attach.attach", lambda words, **_: looked.append(words))
    result = run_start("root@pod", "22", "training.max_steps=3", "--experiment", "quickstart", "--price", "0.4",
                       "--max-cost", "5", "--attach")
    assert result.exit_code == 0, result.output
    assert looked == [["root@pod:22"]]


def test_an_answer_that_is_none_is_told(tmp_path, monkeypatch):
    place = Place(Connection(parse("pod"), Project(tmp_path)), Project(tmp_path), "/x")
    answer = type("Done", (), {"code": 0, "text": "hello\n", "stderr": ""})
    monkeypatch.setattr(place, "auricle", lambda *_, **__: answer)
    with pytest.raises(RemoteError, match="answered 'hello' to the start of a run"):
        start(place, job(), {})

"""An experiment as a task of SkyPilot: what stands in it, and what SkyPilot's own loader says."""

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from auricle.cli.main import app
from auricle.core.compose import compose
from auricle.core.decode import decode
from auricle.core.errors import UsageError
from auricle.remote.sky import Machines, task, text
from tests.paths import ROOT

NAMED = """training.run_name="it's mine\""""
EIGHT = Machines(gpu="A100:8", cloud="runpod", spot=True)


def made(tmp_path: Path, machines: Machines = EIGHT, *overrides: str, mirror: str = "s3://bucket/runs",
         secrets: tuple[str, ...] = (), root: Path | None = None) -> dict[str, Any]:
    words = ["+experiments=quickstart", f"mirror.targets=[{mirror}]", *overrides]
    config = decode(compose(words, user_folder=tmp_path))
    whole = task(config, words, machines, name="Quick start", root=root or tmp_path, secrets=secrets)
    assert yaml.safe_load(text(whole, "auricle remote sky quickstart", config)) == whole
    return whole


def test_a_task_names_machines_their_end_and_the_codes_after_which_it_goes_on(tmp_path):
    whole = made(tmp_path, EIGHT, "remote.idle_minutes=12")
    assert whole["name"] == "quick-start"
    assert whole["resources"] == {
        "disk_size": 100, "accelerators": "A100:8", "infra": "runpod", "use_spot": True,
        "autostop": {"idle_minutes": 12, "down": True},
        "job_recovery": {"max_restarts_on_errors": 3, "recover_on_exit_codes": [75]}}
    assert "num_nodes" not in whole
    assert "autostop" not in made(tmp_path, EIGHT, "remote.idle_minutes=null")["resources"]


@pytest.mark.parametrize(("machines", "expected"), [
    (Machines(), ["train", "+experiments=quickstart"]),
    (Machines(gpu="L4"), ["train", "--nproc", "8", "+experiments=quickstart"]),
    (Machines(gpu="H100:8", nodes=2), ["train", "--nproc", "8", "--nnodes", "2", "--node-rank", "1", "--rendezvous",
                                       "10.0.0.1:29500", "+experiments=quickstart"]),
])
def test_what_runs_is_the_same_command_on_every_machine(tmp_path, machines, expected):
    script = made(tmp_path, machines, NAMED)["run"]
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    given = {"SKYPILOT_NUM_GPUS_PER_NODE": "8", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1",
             "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=given, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["-m", "auricle", *expected, "mirror.targets=[s3://bucket/runs]",
                                        NAMED]


def test_it_installs_what_deploy_would_and_what_the_mirror_needs(tmp_path):
    setup = made(tmp_path, root=ROOT)["setup"]
    assert "pip install --quiet -c constraints-torch.txt torch\n" in setup
    assert "pip install --quiet -c constraints.txt -e .\n" in setup
    assert "pip install --quiet s3fs\n" in setup
    other = made(tmp_path, EIGHT, "remote.torch='torch==2.12.1 --index-url https://example.org/whl'",
                 "remote.extras=[synth]", mirror="hf://buckets/me/runs", root=ROOT)["setup"]
    assert "pip install --quiet torch==2.12.1 --index-url https://example.org/whl\n" in other
    assert "-e '.[synth]'\n" in other
    assert "s3fs" not in other


def test_the_setup_takes_a_python_that_is_new_enough(tmp_path):
    setup = made(tmp_path, root=tmp_path)["setup"].partition(".venv/bin/python -m pip")[0]
    (tmp_path / "bin").mkdir()
    for name, code in (("python3.13", "exit 1"), ("python3", 'mkdir -p .venv/bin; touch .venv/bin/python; '
                                                  'chmod +x .venv/bin/python; echo "$@" >> asked')):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    for name in ("mkdir", "touch", "chmod"):
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}")
    for _ in range(2):  # the second one finds it there
        subprocess.run(["/bin/bash", "-c", setup], cwd=tmp_path, env={"PATH": str(tmp_path / "bin")}, check=True)
    assert (tmp_path / "asked").read_text().splitlines()[1:] == ["-m venv .venv"]


@pytest.mark.parametrize(("mirror", "said"), [("", "there is none"), ("backup", "backup is nothing that a machine"),
                                              ("ssh://root@203.0.113.7/runs", "no SSH key"),
                                              ("file:///backup", "file:///backup is nothing"),
                                              ("local:///backup", "nothing that a machine"),
                                              ("memory://x", "memory://x is nothing")])
def test_a_run_that_a_new_machine_could_not_go_on_with_is_refused(tmp_path, mirror, said):
    with pytest.raises(UsageError, match=f"mirror.targets: .*{said}.*--mirror URL"):
        made(tmp_path, mirror=mirror)


def test_a_gpu_that_is_no_name_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--gpu a100 x 8: expected NAME or NAME:COUNT"):
        made(tmp_path, Machines(gpu="a100 x 8"))


def test_secrets_are_named_and_never_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_a-token-of-this-test")
    for name in ("WANDB_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    words = ["remote", "sky", "quickstart", "--mirror", "s3://bucket/runs", "--gpu", "L4", "--to", "quick.yaml"]
    assert app(words, standalone_mode=False) in (None, 0)
    written = (tmp_path / "quick.yaml").read_text()
    assert yaml.safe_load(written)["secrets"] == {"HF_TOKEN": None}
    assert "sky jobs launch quick.yaml --secret HF_TOKEN" in capsys.readouterr().out
    assert "hf_a-token-of-this-test" not in written
    assert app(words, standalone_mode=False) == 2  # what is there is not overwritten
    assert (tmp_path / "quick.yaml").read_text() == written


def test_skypilots_loader_accepts_it_and_would_not_accept_anything(tmp_path):
    sky = pytest.importorskip("sky")
    for machines in (Machines(), EIGHT, Machines(gpu="H100:8", nodes=2)):
        whole = made(tmp_path, machines, secrets=("HF_TOKEN",))
        loaded = sky.Task.from_yaml_config(copy.deepcopy(whole), secrets_overrides=[("HF_TOKEN", "x")])
        assert loaded.num_nodes == machines.nodes
        (resources,) = loaded.resources
        assert resources.use_spot == machines.spot
        assert resources.job_recovery["recover_on_exit_codes"] == [75]
        with pytest.raises(Exception, match="recovry"):
            sky.Task.from_yaml_config({**copy.deepcopy(whole), "recovry": {}})

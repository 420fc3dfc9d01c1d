"""What a project's environment is installed from, and when it counts as installed."""

import json

import pytest

from auricle.remote.setup.environment import Standing, installed, is_auricle, project_words, steps_of

SUMS = {"pyproject.toml": "aa", "constraints.txt": "bb", "constraints-torch.txt": "cc"}
TORCH = "-c constraints-torch.txt torch"


@pytest.fixture
def auricle(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "auricle"\n')
    return tmp_path


def noted(steps, python="3.11.7"):
    found = {step["name"]: {"inputs": step["inputs"], "python": python} for step in steps}
    found["check"] |= {"torch": "2.13.0", "sees_gpu": False, "auricle": "auricle 1"}
    return json.loads(json.dumps(found))


def test_a_checkout_of_auricle_is_installed_as_the_makefile_does(auricle):
    torch, project, check = steps_of(auricle, SUMS, TORCH, ["synth", "wandb"], gpu=True)
    assert torch["pip"] == ["-c", "constraints-torch.txt", "torch"]
    assert project["pip"] == ["-c", "constraints.txt", "-e", ".[synth,wandb]"]
    assert "pip" not in check


@pytest.mark.parametrize(("there", "extras", "words"), [
    ({"pyproject.toml"}, [], ["-e", "."]),
    ({"pyproject.toml", "requirements.txt"}, ["synth"], ["-e", ".", "auricle[synth]"]),
    ({"requirements.txt", "constraints.txt"}, [], ["-c", "constraints.txt", "-r", "requirements.txt"]),
    ({"requirements.txt"}, ["synth"], ["-r", "requirements.txt", "auricle[synth]"]),
    (set(), ["synth"], ["auricle[synth]"]),
    ({"constraints.txt"}, [], []),
])
def test_other_projects_say_themselves_what_they_need(tmp_path, there, extras, words):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "speech"\n')
    assert project_words(tmp_path, there, extras) == words


def test_a_pyproject_that_is_none(tmp_path):
    assert not is_auricle(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project")
    assert not is_auricle(tmp_path)


def test_what_was_installed_from_the_same_inputs_is_left_alone(auricle):
    steps = steps_of(auricle, SUMS, TORCH, [], gpu=False)
    found = installed(Standing(SUMS, "3.11.7", False, noted(steps)), steps)
    assert found is not None
    assert (found.torch, found.changed) == ("2.13.0", False)


@pytest.mark.parametrize("change", [
    {"sums": SUMS | {"pyproject.toml": "other"}}, {"sums": SUMS | {"constraints.txt": "other"}},
    {"sums": SUMS | {"constraints-torch.txt": "other"}}, {"torch": "torch==2.12.0"}, {"extras": ["synth"]},
    {"gpu": True}])
def test_other_inputs_ask_for_another_installation(auricle, change):
    settings = {"sums": SUMS, "torch": TORCH, "extras": [], "gpu": False}
    before = noted(steps_of(auricle, **settings))
    after = steps_of(auricle, **(settings | change))
    assert installed(Standing(SUMS, "3.11.7", False, before), after) is None


@pytest.mark.parametrize("python", [None, "3.12.1"])
def test_another_python_or_none_asks_for_another_installation(auricle, python):
    steps = steps_of(auricle, SUMS, TORCH, [], gpu=False)
    assert installed(Standing(SUMS, python, False, noted(steps)), steps) is None


@pytest.mark.parametrize("lacks", ["torch", "project", "check"])
def test_a_step_that_was_not_noted_is_to_be_done(auricle, lacks):
    steps = steps_of(auricle, SUMS, TORCH, [], gpu=False)
    known = noted(steps)
    del known[lacks]
    assert installed(Standing(SUMS, "3.11.7", False, known), steps) is None


def test_of_an_environment_that_is_a_link_the_check_alone_counts(auricle):
    steps = steps_of(auricle, SUMS, TORCH, [], gpu=False)
    known = {"check": noted(steps)["check"]}
    assert installed(Standing(SUMS, "3.11.7", True, known), steps) is not None
    assert installed(Standing(SUMS, "3.11.7", False, known), steps) is None

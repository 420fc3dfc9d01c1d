"""Composition: the seeds' files and commands as printed, and a sentence for everything that cannot be composed."""

import os
from pathlib import Path

import pytest

from auricle.core.compose import compose
from auricle.core.errors import ConfigError

WRITTEN_OUT = """\
# @package _global_

# Custom experiment configuration
# Based on transcribe_whisper but with modifications
defaults:
  - /model: whisper_turbo
  - /data: loquacious_large
  - /training: production
  - /projector: default

# Custom modifications
training:
  run_name: "my-first-training"
  output_dir: "./outputs/my_experiment"
  learning_rate: 1e-4
  per_device_train_batch_size: 8
  max_steps: 10000

data:
  max_train_samples: 10000  # Use subset for faster iteration
  max_eval_samples: 500

# Your name for the model card!
model:
  system_prompt: "/no_think /system_override"

# Experiment notes
# TODO: Describe what you're testing here
"""

MIXTURE_OF_EXPERTS = """\
# @package _global_
defaults:
  - override /model: moe
  - override /data: loquacious_large

# REQUIRED: Change to YOUR Hugging Face username
training:
  hub_model_id: "your-username/tiny-audio-yourname"

# Optional: Experiment with these
# training:
#   max_steps: 10000       # Fewer steps = faster (default: 15000)
"""

HUBERT = """\
# @package _global_
defaults:
  - /model: large
  - /training: production
"""

FILES = {
    "model/whisper_turbo.yaml": "kind: speech_llm\nencoder: whisper\n",
    "model/large.yaml": "kind: speech_llm\nencoder: hubert\nwidth: 64\n",
    "model/moe.yaml": "kind: speech_llm\nprojector_type: moe\n",
    "data/loquacious_large.yaml": "datasets: {loquacious: {manifest: data/loquacious}}\n",
    "training/base.yaml": "max_steps: 50000\nbatch_seconds: 60\n",
    "training/production.yaml": "defaults:\n  - base\n  - _self_\nmax_steps: 20000\nlearning_rate: 1e-5\n",
    "projector/default.yaml": "# @package model.projector\ntype: swiglu\n",
    "experiments/my_experiment.yaml": WRITTEN_OUT,
    "experiments/moe.yaml": MIXTURE_OF_EXPERTS,
    "experiments/transcribe_hubert.yaml": HUBERT,
}


@pytest.fixture
def user_folder(tmp_path, monkeypatch) -> Path:
    """A user's configs/hydra below the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        write(name, text)
    return tmp_path / "configs/hydra"


def write(name: str, text: str) -> Path:
    path = Path("configs/hydra") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    return str(caught.value)


def test_an_experiment_that_names_its_groups_composes_as_printed(user_folder):
    composed = compose(["+experiments=my_experiment"])
    assert composed.experiment == "my_experiment"
    assert composed.values["training"] == {
        "run_name": "my-first-training", "output_dir": "./outputs/my_experiment", "learning_rate": 1e-4,
        "per_device_train_batch_size": 8, "max_steps": 10000, "batch_seconds": 60}
    assert composed.values["data"]["max_train_samples"] == 10000
    assert composed.values["model"] == {"kind": "speech_llm", "encoder": "whisper", "projector": {"type": "swiglu"},
                                        "system_prompt": "/no_think /system_override"}
    assert composed.values["task"] == {"kind": "ctc"}, "a group that the experiment leaves open has its default"


def test_an_experiment_copied_from_one_that_overrides_its_groups_composes_as_printed(user_folder):
    write("experiments/my_experiment.yaml", MIXTURE_OF_EXPERTS)
    values = compose(["+experiments=my_experiment"]).values
    assert values["model"] == {"kind": "speech_llm", "projector_type": "moe"}
    assert values["training"]["hub_model_id"] == "your-username/tiny-audio-yourname"
    assert values["training"]["max_steps"] == compose([]).values["training"]["max_steps"]


def test_an_experiment_without_its_package_line_still_fills_the_whole_configuration(user_folder):
    write("experiments/bare.yaml", "defaults:\n  - /model: large\ntraining:\n  max_steps: 7\n")
    values = compose(["+experiments=bare"]).values
    assert values["training"]["max_steps"] == 7
    assert values["model"]["encoder"] == "hubert"
    assert "experiments" not in values


@pytest.mark.parametrize("spelling", ["+experiments=transcribe_hubert", "experiments=transcribe_hubert"])
def test_an_experiment_is_named_with_or_without_a_plus(user_folder, spelling):
    values = compose([spelling]).values
    assert values["model"]["encoder"] == "hubert"
    assert values["training"]["max_steps"] == 20000
    assert values["data"]["datasets"].keys() == {"commands"}


def test_single_values_need_no_experiment_and_no_plus(user_folder):
    typed = ["training.max_steps=10", "data.max_train_samples=50", "training.per_device_train_batch_size=2",
             'training.run_name="tiny-test"']
    composed = compose(typed)
    assert composed.overrides == tuple(typed)
    assert composed.experiment is None
    assert composed.values["training"]["max_steps"] == 10
    assert composed.values["training"]["per_device_train_batch_size"] == 2, "no YAML lists this key"
    assert composed.values["training"]["run_name"] == "tiny-test"
    assert composed.values["data"]["max_train_samples"] == 50


@pytest.mark.parametrize("experiment", [[], ["+experiments=my_experiment"], ["+experiments=moe"],
                                        ["+experiments=transcribe_hubert"]])
@pytest.mark.parametrize("choice", ["model=large", "+model=large"])
def test_a_typed_group_wins_over_every_kind_of_experiment(user_folder, experiment, choice):
    assert compose([choice, *experiment]).values["model"]["encoder"] == "hubert"


def test_an_experiments_body_wins_over_groups_and_single_values_win_over_both(user_folder):
    write("experiments/wide.yaml", "# @package _global_\nmodel:\n  width: 99\n")
    assert compose(["+experiments=wide"]).values["model"]["width"] == 99
    assert compose(["+experiments=wide", "model=large"]).values["model"]["width"] == 99
    assert compose(["model.width=3", "+experiments=wide"]).values["model"]["width"] == 3


@pytest.mark.parametrize("base", ["my_experiment", "/experiments: my_experiment"])
def test_an_experiment_may_build_on_another(user_folder, base):
    write("experiments/longer.yaml", f"defaults:\n  - {base}\n  - _self_\ntraining:\n  max_steps: 30000\n")
    values = compose(["+experiments=longer"]).values
    assert values["training"]["max_steps"] == 30000
    assert values["training"]["run_name"] == "my-first-training"
    assert values["model"]["encoder"] == "whisper"


def test_a_users_file_is_found_before_the_packaged_one(user_folder):
    write("model/default.yaml", "kind: mine\n")
    assert compose([]).values["model"] == {"kind": "mine"}
    assert compose([], user_folder=Path("elsewhere")).values["model"]["kind"] == "conformer"


def test_keys_are_deleted_and_added_as_in_hydra(user_folder):
    values = compose(["~model.width", "+training.save_steps=5", "++training.seed=6", "model=large"]).values
    assert "width" not in values["model"]
    assert values["training"]["save_steps"] == 5
    assert values["training"]["seed"] == 6
    assert "task" not in compose(["~task"]).values
    assert "model" not in compose(["~model", "+experiments=transcribe_hubert"]).values


def test_numbers_in_scientific_notation_are_numbers(user_folder):
    write("training/small.yaml", "learning_rate: 1e-3\n")
    assert compose(["training=small"]).values["training"]["learning_rate"] == 0.001
    assert compose(["training.learning_rate=5e-4"]).values["training"]["learning_rate"] == 0.0005


def test_interpolations_are_resolved(user_folder):
    values = compose(["training.run_name=steps-${training.max_steps}", "training.max_steps=7"]).values
    assert values["training"]["run_name"] == "steps-7"


def test_a_users_root_that_names_groups_itself_is_taken_as_it_is(user_folder):
    write("config.yaml", "defaults:\n  - model: large\n  - _self_\n")
    assert compose([]).values["model"]["encoder"] == "hubert"


def test_composing_changes_neither_the_working_directory_nor_logging(user_folder):
    import logging

    before = (Path.cwd(), list(logging.getLogger().handlers))
    compose([])
    assert (Path.cwd(), list(logging.getLogger().handlers)) == before
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["configs"]


def test_the_place_of_a_key_is_the_one_that_had_the_last_word(user_folder):
    where = compose(["+experiments=my_experiment", "training.max_steps=3", "evaluation={decoder: beam}"]).origins.where
    assert where("training.max_steps") == "override 'training.max_steps=3'"
    assert where("evaluation.decoder") == "override 'evaluation={decoder: beam}'"
    assert where("data.max_train_samples") == "configs/hydra/experiments/my_experiment.yaml:20"
    assert where("training.batch_seconds") == "configs/hydra/training/base.yaml:2"
    assert where("model.projector.type") == "configs/hydra/projector/default.yaml:2"
    assert where("model.kind") == "configs/hydra/model/whisper_turbo.yaml:1"
    assert where("training.never_written") == "configs/hydra/experiments/my_experiment.yaml:12", "the nearest key above"


@pytest.mark.parametrize(("typed", "sentence"), [
    ("foo bar", "override 'foo bar': expected key=value"),
    ("training.max_steps", "override 'training.max_steps': expected key=value"),
    ("=3", "override '=3': no key before '='"),
    ("model=", "override 'model=': no 'model' option '' in"),
    ("training.max_steps=1,2", "override 'training.max_steps=1,2': several values; expected one"),
    ("training.output_dir=~/x", "override 'training.output_dir=~/x': token recognition error at: '~'; a value with"),
    ("modle=large", "override 'modle=large': no group or key 'modle'; did you mean 'model'?"),
    ("experiment=moe", "override 'experiment=moe': no group or key 'experiment'; did you mean 'experiments'?"),
    ("learning_rate=1e-3", "no group or key 'learning_rate'; did you mean 'training.learning_rate'?"),
    ("hydra.run.dir=x", "override 'hydra.run.dir=x': no group or key 'hydra'"),
    ("model={width: 3}", "override 'model={width: 3}': 'model' is a group; expected the name of an option"),
    ("~model.no_such_key", "override '~model.no_such_key': Could not delete from config"),
    ("training.run_name=${model.nothing}", "training.run_name: Interpolation key 'model.nothing' not found"),
    ("training.run_name='???'", "training.run_name: '???'; expected a value"),
])
def test_an_override_that_cannot_be_used_is_one_sentence(user_folder, typed, sentence):
    message = refused(typed)
    assert sentence in message
    assert "\n" not in message


@pytest.mark.parametrize(("typed", "sentence"), [
    ("model=lareg", "override 'model=lareg': no 'model' option 'lareg' in configs/hydra/model, "),
    ("+experiments=my_experimant", "override '+experiments=my_experimant': no experiment 'my_experimant' in configs/"),
])
def test_a_misspelt_option_is_answered_with_the_nearest_and_the_folders(user_folder, typed, sentence):
    message = refused(typed)
    assert sentence in message
    assert "did you mean 'large'?" in message or "did you mean 'my_experiment'?" in message


def test_mistakes_on_the_command_line_are_told_together(user_folder):
    assert len(refused("modle=large", "lerning_rate=3", "data={x: 1}").splitlines()) == 3
    assert len(refused("foo bar", "=3").splitlines()) == 2


def test_a_group_chosen_twice_is_refused(user_folder):
    assert "'model' is chosen twice, first by 'model=large'" in refused("model=large", "+model=moe")


@pytest.mark.parametrize(("defaults", "sentence"), [
    ("- /model: whisper_trubo", "experiments/x.yaml:3: no 'model' option 'whisper_trubo' in"),
    ("- /modle: large", "experiments/x.yaml:3: no group 'modle'; did you mean '/model'?"),
    ("- model: large", "experiments/x.yaml:3: no group 'experiments/model'; did you mean '/model'?"),
    ("- override /model: lrge", "experiments/x.yaml:3: no 'model' option 'lrge' in"),
    ("- moee", "experiments/x.yaml:3: no experiment 'moee' in"),
    ("- x", "experiments/x.yaml:3: 'x' is built on itself"),
    ("- {/model: large, /data: default}", "experiments/x.yaml:3: not a choice; expected one line as '- /model: large'"),
    ("model: large", "experiments/x.yaml:3: 'defaults' is no list; expected lines as '- /model: large'"),
])
def test_a_defaults_list_that_leads_nowhere_is_told_with_its_line(user_folder, defaults, sentence):
    write("experiments/x.yaml", f"# @package _global_\ndefaults:\n  {defaults}\n")
    assert sentence in refused("+experiments=x")


def test_a_typed_options_own_defaults_list_is_checked_too(user_folder):
    write("training/mine.yaml", "defaults:\n  - bsae\nmax_steps: 3\n")
    assert "training/mine.yaml:2: no 'training' option 'bsae' in" in refused("training=mine")


def test_a_key_that_stands_twice_is_told_with_both_lines(user_folder):
    write("experiments/x.yaml", "training:\n  seed: 1\n  seed: 2\nmodel:\n  width: 1\ntraining:\n  max_steps: 3\n")
    told = refused("+experiments=x").splitlines()
    assert told[0].startswith("configs/hydra/experiments/x.yaml:3: key 'training.seed' stands twice, first in line 2;")
    assert told[1].startswith("configs/hydra/experiments/x.yaml:6: key 'training' stands twice, first in line 1;")


@pytest.mark.parametrize(("content", "sentence"), [
    (b"training:\n  seed: [1\nmodel: 3\n", "experiments/x.yaml:3: not YAML"),
    (b"training:\n\tseed: 1\n", "experiments/x.yaml:2: not YAML"),
    (b"- a\n- b\n", "experiments/x.yaml:1: expected 'key: value' lines, got a sequence"),
    (b"training: \xff\xfe\n", "experiments/x.yaml: not UTF-8 text (byte 10)"),
    (b"a: \x07\n", "experiments/x.yaml: not YAML"),
    (b"a: 1\nb: !!python/object:os.system {}\n", "experiments/x.yaml:2: a value with the tag tag:yaml.org,2002:py"),
    (b"null: 1\n", "experiments/x.yaml:1: expected a word before the colon"),
    (b"? [a, b]\n: 1\n", "experiments/x.yaml:1: expected a word before the colon"),
    (b"a: 1\nb: &b {c: *b}\n", "experiments/x.yaml:2: 'b.c' holds itself"),
    (b"a: 1\nb: ${\n", "experiments/x.yaml:2: no viable alternative at input '${'"),
    (b"# @package a b\nc: 1\n", "config: Too many components in '@package a b'"),
    (b"model: [1]\n", "config: In 'experiments/x': ConfigTypeError raised while composing config: Cannot merge"),
])
def test_a_file_that_is_no_yaml_is_told_with_its_line(user_folder, content, sentence):
    write("experiments/x.yaml", "").write_bytes(content)
    assert sentence in refused("+experiments=x")


def test_a_changed_file_is_read_again(user_folder):
    path = write("model/mine.yaml", "kind: first\n")
    compose(["model=mine"])
    path.write_text("\nkind: second\n", encoding="utf-8")
    os.utime(path, ns=(1, 1))
    composed = compose(["model=mine"])
    assert composed.values["model"] == {"kind": "second"}
    assert composed.origins.where("model.kind").endswith("mine.yaml:2")


def test_a_folder_with_spaces_commas_and_quotes_is_searched(tmp_path):
    folder = tmp_path / "it's a, folder $x"
    (folder / "model").mkdir(parents=True)
    (folder / "model/mine.yaml").write_text("kind: mine\n", encoding="utf-8")
    assert compose(["model=mine"], user_folder=folder).values["model"] == {"kind": "mine"}

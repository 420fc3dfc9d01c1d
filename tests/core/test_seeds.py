"""What readers of the course type and write decodes as it is printed there, with the files that ship."""

import pytest

from auricle.core.compose import compose
from auricle.core.decode import decode
from auricle.core.library import Library
from tests.core.test_compose import WRITTEN_OUT, write


@pytest.fixture(autouse=True)
def nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def decoded(*overrides: str):
    return decode(compose(overrides))


def test_the_experiment_of_the_course_decodes_as_printed():
    write("experiments/my_experiment.yaml", WRITTEN_OUT)
    config = decoded("+experiments=my_experiment")
    assert (config.model.kind, config.task.kind) == ("speech_llm", "chat")
    assert config.model.encoder.pretrained == "openai/whisper-large-v3-turbo"
    assert config.model.decoder.pretrained == "HuggingFaceTB/SmolLM3-3B"
    assert config.model.projector.kind == "swiglu"
    assert config.model.system_prompt == "/no_think /system_override"
    assert (config.training.max_steps, config.training.per_device_train_batch_size) == (10_000, 8)
    assert config.training.output_dir == "./outputs/my_experiment"
    assert config.data.max_train_samples == 10_000
    assert all("LoquaciousSet" in str(entry.source) for entry in config.data.datasets.values())


def test_a_copied_experiment_with_a_hub_repository_decodes():
    write("experiments/my_experiment.yaml", "# @package _global_\ndefaults:\n  - moe\n  - _self_\n"
          'training:\n  hub_model_id: "your-username/tiny-audio-yourname"\n')
    config = decoded("+experiments=my_experiment")
    assert config.training.hub_model_id == "your-username/tiny-audio-yourname"
    assert (config.model.projector.kind, config.training.learning_rate) == ("moe", 1e-4)


@pytest.mark.parametrize("name", ["transcribe_whisper", "transcribe_hubert", "multi_task", "moe", "swiglu", "residual"])
def test_every_experiment_of_the_course_trains_its_projector_alone(name):
    config = decoded(f"+experiments={name}")
    assert config.model.kind == "speech_llm"
    assert config.training.trainable == ["projector"]


@pytest.mark.parametrize("group", ["whisper_turbo", "large", "hubert_large"])
def test_every_model_of_the_course_has_a_tiny_preset_of_the_same_classes(group):
    real, small = decoded(f"model={group}").model, decoded(f"model={group}_tiny").model
    assert (small.encoder.kind, small.encoder_window) == (real.encoder.kind, real.encoder_window)
    assert small.encoder.pretrained is None
    assert small.decoder.pretrained is None
    assert small.system_prompt == real.system_prompt


def test_the_presets_of_the_course_are_there():
    library = Library()
    assert {"whisper_turbo", "large", "hubert_large"} <= set(library.options("model"))
    assert {"loquacious_clean", "loquacious_large", "multi_task_complete"} <= set(library.options("data"))
    assert {"base", "production", "mac", "mac_override"} <= set(library.options("training"))
    assert "default" in library.options("projector")


@pytest.mark.parametrize("kind", ["swiglu", "mlp", "residual", "moe", "shared_moe", "qformer"])
def test_a_projector_is_chosen_by_its_name(kind):
    assert decoded("model=whisper_turbo_tiny", f"projector={kind}").model.projector.kind == kind

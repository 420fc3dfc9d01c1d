import pytest
import torch
from typer.testing import CliRunner

from auricle.cli.main import app
from auricle.core.errors import ConfigError
from auricle.data.tokenizers import Characters
from auricle.store.directory import problems
from auricle.tasks.ctc.config import Config
from auricle.tasks.parts.assembly import assemble, load
from tests.experiments import MODEL, run, tiny
from tests.speech import digits_manifest


def extend(*arguments):
    return CliRunner().invoke(app, ["extend-vocabulary", *map(str, arguments)])


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    config = tiny(tmp_path, manifest=digits_manifest(tmp_path).folder)
    made = assemble(config.model, config.task, Characters("efghinorstuvwxz"))
    (tmp_path / "model").mkdir()
    made.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("seven nine\n\nSIX\n")
    return path


def test_a_run_goes_on_from_the_extended_model(model, words, tmp_path):
    made = extend(model, "--words", words, "--to", tmp_path / "more")
    assert made.exit_code == 0, made.output
    assert "18 labels, 3 of them new" in made.stdout
    assert problems(tmp_path / "more") == []
    settings = {"pretrained_model_path": str(tmp_path / "more"), "max_steps": 2}
    outcome, events = run(tiny(tmp_path, manifest=tmp_path / "manifest", **settings))
    weights = next(event for event in events if event.kind == "weights").values
    assert (weights["missing"], weights["unexpected"]) == ((), ())
    trained = load(tmp_path / "run")
    assert trained.vocabulary == 18
    assert trained.tokenizer.encode("seven") == [15]
    assert outcome.reason == "finished"


def test_an_experiment_that_asks_for_another_vocabulary_is_refused(model, tmp_path):
    config = tiny(tmp_path, manifest=tmp_path / "manifest", pretrained_model_path=str(model))
    other = config.model_copy(update={"task": Config(tokenizer={"kind": "sentencepiece", "vocabulary_size": 40})})
    with pytest.raises(ConfigError, match="vocabulary of 15 labels"):
        run(other)


def test_a_mistake_is_one_sentence(model, words, tmp_path):
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("e\n")
    for arguments, sentence in [((model, "--words", words, "--to", model), "exists"),
                                ((model, "--words", tmp_path / "none.txt", "--to", tmp_path / "a"), "cannot be read"),
                                ((model, "--words", nothing, "--to", tmp_path / "a"), "no new word among 1"),
                                ((tmp_path / "b", "--words", words, "--to", tmp_path / "a"), "no such folder")]:
        found = extend(*arguments)
        assert found.exit_code in (2, 4)
        assert sentence in found.stderr
        assert not (tmp_path / "a").exists()
    assert MODEL["kind"] == "conformer"

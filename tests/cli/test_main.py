"""The command itself: help, verbs, exit codes, and what it does not import."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import auricle
from auricle.cli import main, verbs
from auricle.core.errors import DataError

HEAVY = ("torch", "hydra", "omegaconf", "pydantic", "pyarrow", "matplotlib", "transformers", "rich")


def run(*arguments):
    return CliRunner().invoke(main.app, list(arguments))


def imported_by(*arguments: str) -> tuple[int, set[str]]:
    """(exit code, which heavy packages a fresh process has imported)."""
    code = (f"import sys, auricle.cli.main as main\nsys.argv = ['auricle', *{list(arguments)!r}]\n"
            "try:\n    main.app()\n"
            f"finally:\n    print(*(name for name in {HEAVY!r} if name in sys.modules), sep=',', file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, set(filter(None, done.stderr.splitlines()[-1].split(",")))


def test_the_help_page_tells_each_verb_and_imports_nothing_heavy():
    shown = run("--help").output
    for verb in main.VERBS:
        command = next(line for line in shown.splitlines() if line.strip().startswith(f"{verb} "))
        assert command.split(maxsplit=1)[1], "a sentence about the verb"
    assert "List runs, newest first" in shown, "what the verb's function says of itself"
    assert imported_by("--help") == (0, set())


def test_looking_at_runs_imports_no_torch(tmp_path):
    code, imported = imported_by("runs", str(tmp_path))
    assert code == 0
    assert imported <= {"pydantic"}, "typer checks arguments with pydantic"


def test_without_a_verb_the_help_page_is_shown():
    assert "Commands:" in run().output


@pytest.mark.parametrize("verb", main.VERBS)
def test_each_verb_has_its_own_help_page(verb):
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert f"{verb} " in result.output.splitlines()[0]


def test_the_version_is_told():
    assert run("--version").output == f"auricle {auricle.__version__}\n"


def test_a_misspelt_verb_is_answered_with_the_nearest():
    result = run("trian")
    assert result.exit_code == 2
    assert "Did you mean 'train'?" in result.stderr


class Verb:
    """Stands in for a verb that ends with an error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def make_context(self, *_args, **_settings):
        raise self.error


def test_what_the_user_can_mend_is_one_line_and_an_exit_code(monkeypatch):
    monkeypatch.setattr(verbs, "load", lambda *_: Verb(DataError("clip.wav: empty")))
    result = run("train")
    assert (result.exit_code, result.stderr, result.stdout) == (3, "error: clip.wav: empty\n", "")


def test_an_interrupt_ends_quietly(monkeypatch):
    monkeypatch.setattr(verbs, "load", lambda *_: Verb(KeyboardInterrupt()))
    result = run("train")
    assert (result.exit_code, result.output.strip()) == (130, "")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(verbs, "load", lambda *_: Verb(ZeroDivisionError("ours")))
    assert isinstance(run("train").exception, ZeroDivisionError)


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "auricle", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"auricle {auricle.__version__}\n"

"""`auricle experiments`: copy an experiment to change it, or write the JSON schema that editors check it with."""

import json
from pathlib import Path
from typing import Annotated

import typer

from auricle.core.errors import UsageError

app = typer.Typer(no_args_is_help=True,
                  help="Copy an experiment to change it, or write the JSON schema that editors check it with.")


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="An experiment of `auricle list experiments`.")],
    to: Annotated[Path | None, typer.Option("--to", help="A file that does not exist yet; "
                                            "configs/hydra/experiments/NAME.yaml by default.")] = None,
) -> None:
    """Copy an experiment into your own configs/hydra, where it is found first."""
    from auricle.core.library import EXPERIMENTS, USER_FOLDER, Library

    source = Library().find(EXPERIMENTS, name, "auricle experiments copy")
    target = to or USER_FOLDER / EXPERIMENTS / f"{name}.yaml"
    _write_new(target, source.read_text(encoding="utf-8"))
    print(f"{target} is a copy of '{name}'.")
    if target.resolve().parent == (USER_FOLDER / EXPERIMENTS).resolve():
        print(f"Change it, then: auricle train +{EXPERIMENTS}={target.stem}")


@app.command()
def schema(
    to: Annotated[Path | None, typer.Option("--to", help="A file that does not exist yet; printed by default.")] = None,
) -> None:
    """Print or write the JSON schema of experiment files."""
    from auricle.core.schema import json_schema

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False)
    if to is None:
        print(text)
        return
    _write_new(to, text + "\n")
    print(f"{to} is written. In an experiment's first line: # yaml-language-server: $schema=PATH/{to.name}")


def _write_new(target: Path, text: str) -> None:
    """Raises UsageError where something is already there, or where nothing can be written."""
    if target.exists():
        raise UsageError(f"{target}: exists already; choose another file with --to, or remove it first")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror}); choose another file with --to") from None

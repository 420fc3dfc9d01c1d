"""`auricle extend-vocabulary`: a model that can spell new words with one label each."""

from pathlib import Path
from typing import Annotated

import typer

from auricle.core.errors import UsageError


def extend_vocabulary(
    model: Annotated[str, typer.Argument(help="A run, checkpoint or exported folder, or a hub id.")],
    words: Annotated[Path, typer.Option("--words", help="A text file of words, as many on a line as you like.")],
    to: Annotated[Path, typer.Option("--to", help="The model folder to make.")],
) -> None:
    """Give a model a label for each new word: what it says stays the same until it is trained on from there."""
    from auricle.inference.load import open_model
    from auricle.store.directory import publish
    from auricle.tasks.parts.vocabulary import extend

    if to.exists():
        raise UsageError(f"--to: {to} exists; expected a folder that is yet to be made")
    before = open_model(model)
    after = extend(before, _lines(words))
    publish(to, after.save)
    print(f"{to}: {after.vocabulary} labels, {after.vocabulary - before.vocabulary} of them new; "
          f"training.pretrained_model_path={to} goes on from there")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--words: {path} cannot be read ({error}); expected a text file in UTF-8") from None

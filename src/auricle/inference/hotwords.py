"""Hotwords for a model that was trained without them: phrases from a file, which its beams then prefer."""

from pathlib import Path

from auricle.core.config import ALL
from auricle.core.errors import UsageError
from auricle.core.folder import find, names
from auricle.tasks.parts.assembly import Assembly


def with_hotwords(assembly: Assembly, file: Path | None, bonus: float | None, decoder: str) -> Assembly:
    """The same model with the phrases of a file, if there is one, and the bonus of its task unless another is given.

    `decoder` is the one that will be asked, `all`, or empty for the task's own. Raises UsageError where it is no beam,
    where the task has no hotwords, and for a file that cannot be read or a phrase that cannot be spelt, with its line.
    """
    task, config = assembly.task, assembly.task_config
    if file is None and bonus is not None:
        raise UsageError("--hotword-bonus: belongs to phrases, and there are none; name their file with --hotwords")
    if file is None:
        return assembly
    if not hasattr(config, "hotwords"):
        raise UsageError(f"--hotwords: the task '{config.kind}' takes none; tasks that do: {', '.join(_able())}")
    if (asked := decoder or task.decoders[0]) not in (*task.beams, ALL):
        raise UsageError(f"--hotwords: the decoder '{asked}' keeps one hypothesis and cannot prefer any; expected a "
                         f"beam. Add --decoder {' or --decoder '.join(task.beams)}")
    phrases = phrases_of(file)
    for line, phrase in phrases.items():
        if unknown := task.labels.unknown(phrase):
            raise UsageError(f"{file}:{line}: '{phrase}' has '{unknown}', which the model has no label for; expected "
                             "the letters of its transcripts. Write it in those, or leave it out")
        if not task.labels(phrase):
            raise UsageError(f"{file}:{line}: nothing is left of '{phrase}' once it is normalised as transcripts are; "
                             "expected words. Leave it out")
    changes = {"hotwords": list(phrases.values()), **({} if bonus is None else {"hotword_bonus": bonus})}
    return assembly.for_task(config.model_copy(update=changes), assembly.tokenizer)


def phrases_of(file: Path) -> dict[int, str]:
    """Line, counted from 1 → the phrase that stands there; blank lines and those that begin with # are no phrase.

    Raises UsageError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"--hotwords: {file}: cannot be read ({error.strerror}); expected a text file with one phrase "
                         "a line") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"--hotwords: {file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    stripped = {number: line.strip() for number, line in enumerate(lines, start=1)}
    found = {number: line for number, line in stripped.items() if line and not line.startswith("#")}
    if not found:
        raise UsageError(f"--hotwords: {file}: no phrase in it; expected one a line")
    return found


def _able() -> list[str]:
    return [name for name in names("tasks") if "hotwords" in find("tasks", name, "config").Config.model_fields]

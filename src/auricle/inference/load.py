"""One way to a model: a run folder, a checkpoint folder, an exported folder or a hub id."""

from pathlib import Path

from auricle.core.errors import ModelError
from auricle.tasks.parts.assembly import Assembly, load

CONFIG = "config.json"


def open_model(name: str) -> Assembly:
    """The model with its tokenizer and task, in eval mode on the CPU; ModelError with what there is instead."""
    return load(folder_of(name))


def folder_of(name: str) -> Path:
    """Where the model's files lie; a hub id (`owner/name`) is fetched into the hub's cache."""
    path = Path(name)
    if (path / CONFIG).is_file():
        return path
    if path.exists():
        raise ModelError(f"'{name}': holds no {CONFIG}, so it is no model folder{_hint(path)}")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not path.parent.exists():
        return _from_hub(name)
    raise ModelError(
        f"'{name}': no such folder; expected a run folder (outputs/<run_name>), a checkpoint folder, "
        f"an exported folder or a hub id (owner/name){_near(path)}"
    )


def _hint(path: Path) -> str:
    checkpoints = sorted((path / "checkpoints").glob("step-*"))
    if checkpoints:
        return f"; did you mean {checkpoints[-1]}?"
    return (
        "; the run saved nothing yet" if (path / "run.json").is_file() else "; expected what training or export wrote"
    )


def _near(path: Path) -> str:
    """Neighbours that are models."""
    parent = path.parent
    found = [str(item) for item in sorted(parent.glob("*")) if (item / CONFIG).is_file()] if parent.is_dir() else []
    return f". Models there: {', '.join(found[:5])}" if found else ""


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"'{name}': neither a folder here nor a model on the hub ({reason})") from None

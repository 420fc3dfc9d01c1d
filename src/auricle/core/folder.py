"""The folder is the registry: `kind: conformer` in a config means the module `auricle.models.conformer`.

A room that is a registry (models, tasks, metrics, data.sources, dashboard.trackers, remote.providers) holds one file
or one folder an entry. Modules named `parts` and names with a leading underscore are not entries. A dotted kind
(`my_lab.models.gru`) is imported as it stands, so private code needs no fork.
"""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import auricle
from auricle.core.errors import ConfigError, nearest

ROOMS = ("models", "tasks", "metrics", "data.sources", "dashboard.trackers", "remote.providers")


def names(room: str) -> list[str]:
    """Entries of a room, sorted, read from the folder; nothing is imported."""
    found = set()
    for item in (Path(auricle.__file__).parent / room.replace(".", "/")).iterdir():
        is_entry = item.suffix == ".py" or (item / "__init__.py").is_file()
        if is_entry and not item.stem.startswith("_") and item.stem != "parts":
            found.add(item.stem)
    return sorted(found)


def find(room: str, kind: str, part: str = "") -> ModuleType:
    """The module of an entry, or one of its files (`part="config"`, for entries that are folders).

    A part that a one-file entry lacks is the file itself. Raises ConfigError with the nearest name.
    """
    if not all(piece.isidentifier() for piece in kind.split(".")) or ("." not in kind and kind not in names(room)):
        raise ConfigError(f"no {room.split('.')[-1].removesuffix('s')} '{kind}'; {nearest(kind, names(room))}")
    module = kind if "." in kind else f"auricle.{room}.{kind}"
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(f"{room}: cannot import '{kind}'; is its package installed or on PYTHONPATH?") from None
    if part and hasattr(found, "__path__") and importlib.util.find_spec(f"{module}.{part}"):
        return importlib.import_module(f"{module}.{part}")
    return found

"""The YAML files that experiments are composed from: folders of options, a user's own before the ones of the package.

    configs/hydra/              experiments/quickstart.yaml is option `quickstart` of the group `experiments`
    ├── config.yaml             the common root
    ├── model/default.yaml      taken where nothing else of the group is named
    └── experiments/…
"""

from pathlib import Path

import auricle
from auricle.core.errors import ConfigError, nearest
from auricle.core.lines import shown

EXPERIMENTS = "experiments"
USER_FOLDER = Path("configs/hydra")


def packaged_folder() -> Path:
    """`auricle/configs` of an installed wheel, `configs/hydra` of a checkout."""
    package = Path(auricle.__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs" / "hydra"


class Library:
    """What a command line or a `defaults` list can name."""

    def __init__(self, user_folder: Path = USER_FOLDER) -> None:
        candidates = dict.fromkeys([user_folder.resolve(), packaged_folder()])
        self.folders = [folder for folder in candidates if folder.is_dir()]

    def groups(self) -> set[str]:
        """Folders that hold options, nested ones as `data/hebrew`."""
        return {path.parent.relative_to(folder).as_posix() for folder in self.folders
                for path in folder.rglob("*.yaml") if path.parent != folder}

    def options(self, group: str) -> list[str]:
        """Sorted, without `.yaml`; those of folders below the group as `folder/name`."""
        return sorted({path.relative_to(folder / group).with_suffix("").as_posix() for folder in self.folders
                       for path in (folder / group).rglob("*.yaml")})

    def find(self, group: str, option: str, where: str) -> Path:
        """The file of an option; the empty group is the folder itself.

        Raises ConfigError that begins with `where` and names the nearest option and the folders searched.
        """
        found = next((path for folder in self.folders if (path := folder / group / f"{option}.yaml").is_file()), None)
        if found:
            return found
        if group and group not in self.groups():
            known = [f"/{name}" for name in self.groups()]
            raise ConfigError(f"{where}: no group '{group}'; {nearest('/' + group.rpartition('/')[2], known)}")
        searched = ", ".join(shown(folder / group) for folder in self.folders)
        what = "experiment" if group == EXPERIMENTS else f"'{group}' option"
        raise ConfigError(f"{where}: no {what} '{option}' in {searched}; {nearest(option, self.options(group))}")

"""Packages that install in no time and without a network: wheels made by hand."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

TORCH = "__version__ = '{version}'\nclass cuda:\n    is_available = staticmethod(lambda: {sees_gpu})\n"


def wheel(folder: Path, name: str, version: str, files: Mapping[str, str]) -> Path:
    """`files`: path in the package directory → text."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(f"{name}/{inside}", text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
                                          "Tag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def torch_wheel(folder: Path, version: str = "2.13.0", *, sees_gpu: bool = False) -> Path:
    return wheel(folder, "torch", version, {"__init__.py": TORCH.format(version=version, sees_gpu=sees_gpu)})


def auricle_wheel(folder: Path, version: str = "0.1") -> Path:
    return wheel(folder, "auricle", version, {"__init__.py": "", "__main__.py": f"print('auricle {version}')\n"})


def fill_project(root: Path) -> str:
    """A project that lists a stand-in for auricle; → pip's words for a stand-in for torch."""
    torch, auricle = torch_wheel(root / "wheels"), auricle_wheel(root / "wheels")
    (root / "requirements.txt").write_text(f"./wheels/{auricle.name}\n")
    (root / "train.py").write_text("print('hello')\n")
    return f"wheels/{torch.name}"

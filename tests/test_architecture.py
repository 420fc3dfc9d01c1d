"""The house rules that a machine can check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src" / "auricle"
FILES = sorted(SRC.rglob("*.py"))
LEVEL = {
    "core": 0,
    "store": 1,
    "data": 1,
    "models": 1,
    "metrics": 1,
    "tasks": 2,
    "train": 3,
    "inference": 3,
    "remote": 3,
    "dashboard": 3,
    "cli": 4,
}
MAY_CATCH_ALL = {
    "dashboard/follow.py",
    "remote/watching/watch.py",
    "store/directory.py",
    "store/hub.py",
    "store/targets/remote_file_system.py",
    "store/run_lock.py",
}
"""A tracker that raises stops nothing; a thread that ended would watch no more; a directory that is being written is
removed whatever interrupted it; file systems and hubs raise errors of their libraries' own; a lock that cannot be taken
is closed."""
ONLY_IN = {
    "accelerate": {"train/engine.py"},
    "hydra": {"core/compose.py"},
    "espeakng_loader": {"data/sources/synth.py"},
}
WITHOUT_TORCH = ["core", "store", "dashboard", "remote", "data.sources"]
REGISTRIES = {"models", "models/parts/encoders", "models/speech_llm/projectors", "tasks", "metrics", "data/sources",
              "store/targets", "dashboard/trackers", "remote/providers"}


def relative(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


def imports(path: Path, *, everywhere: bool = True) -> list[str]:
    """Modules that a file imports; without `everywhere` only those that run when it is imported."""
    found, stack = [], list(ast.parse(path.read_text(encoding="utf-8")).body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            stack += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            stack += [child for handler in getattr(node, "handlers", []) for child in handler.body]
    return found


def module_of(path: Path) -> str:
    parts = ("auricle", *path.relative_to(SRC).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def target(name: str) -> str | None:
    """The module of ours that an imported name lies in."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def test_imports_go_one_way_through_the_rooms():
    wrong = []
    for path in FILES:
        room = relative(path).split("/")[0]
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "auricle" and room in LEVEL and len(parts) > 1 and parts[1] in LEVEL:
                other = parts[1]
                if other != room and LEVEL[other] >= LEVEL[room]:
                    wrong.append(f"{relative(path)} imports {name}")
    assert not wrong


def test_there_is_no_import_cycle():
    graph = {
        name: {t for t in map(target, imports(path, everywhere=False)) if t and t != name}
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_and_functions_are_small_and_clean(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = node.end_lineno - node.lineno + 1
            assert size <= 80, f"{node.name} has {size} lines"
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            assert relative(path).startswith("cli/"), f"print in line {node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException")
            assert not broad or relative(path) in MAY_CATCH_ALL, f"broad except in line {node.lineno}"


def test_each_dependency_behind_a_door_is_imported_there_alone():
    for package, homes in ONLY_IN.items():
        found = {relative(path) for path in FILES if any(name.split(".")[0] == package for name in imports(path))}
        assert found <= homes, f"{package} is imported in {sorted(found - homes)}"


def test_registry_doors_hold_the_contract_and_the_other_doors_nothing():
    for path in FILES:
        if path.name == "__init__.py" and path != SRC / "__init__.py":
            home = relative(path.parent)
            text = path.read_text(encoding="utf-8")
            assert (home in REGISTRIES) == bool(text.strip()), home


def test_what_a_laptop_needs_imports_without_torch():
    rooms = tuple(f"auricle.{room}" for room in WITHOUT_TORCH)
    names = [name for name in MODULES if name.startswith(rooms) or name.endswith(".config")]
    code = f"import sys, importlib\nsys.modules['torch'] = None\n[importlib.import_module(n) for n in {names!r}]"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_nothing_is_left_for_later():
    words = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b|for now")
    found = [
        f"{relative(path)}: {match.group()}"
        for path in FILES
        if (match := words.search(path.read_text(encoding="utf-8")))
    ]
    assert not found

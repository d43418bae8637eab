"""The house: imports go one way, and no folder is a heap."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = {
    "modist_kernels": REPOSITORY / "kernels" / "modist_kernels",
    "modist_pipelines": REPOSITORY / "pipelines" / "modist_pipelines",
    "modist_fast": REPOSITORY / "modist_fast",
    "modist_profiling": REPOSITORY / "profiling" / "modist_profiling",
}
# Each package and the ones below it; the two at the bottom do not know each other.
BELOW = {
    "modist_kernels": set(),
    "modist_pipelines": set(),
    "modist_fast": {"modist_kernels", "modist_pipelines"},
    "modist_profiling": {"modist_kernels", "modist_pipelines", "modist_fast"},
}
MOST_MODULES = 16


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Every name that a file imports, within functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph() -> dict[str, set[str]]:
    """Module to the modules that it imports."""
    known = modules()

    def module_of(name: str) -> str | None:
        return next((part for part in (name, name.rpartition(".")[0]) if part in known), None)

    return {
        name: {found for imports in imported(path) if (found := module_of(imports)) and found != name}
        for name, path in known.items()
    }


def test_no_circle_and_no_arrow_that_runs_back_up() -> None:
    arrows = graph()
    assert sum(map(len, arrows.values())) > 300, "the reader of imports is blind"
    TopologicalSorter(arrows).prepare()  # raises CycleError, which names the circle
    for name, targets in arrows.items():
        package = name.partition(".")[0]
        for target in targets:
            assert target.partition(".")[0] in {package, *BELOW[package]}, f"{name} imports {target}"


def test_rooms_of_the_method_are_above_one_another() -> None:
    """Folders of modist_fast, whose root holds what is read first and may use all but the commands."""
    rooms: dict[str, set[str]] = {}
    for name, targets in graph().items():
        for target in targets:
            here, there = room_of(name), room_of(target)
            if here and there and here != there:
                rooms.setdefault(here, set()).add(there)
            above = (
                here == "commands"
                or name in ("modist_fast.__main__", "modist_fast.api")
                or not name.startswith("modist_fast")
            )
            assert there != "commands" or above, f"{name}: {target}"
    assert len(rooms) > 4
    TopologicalSorter(rooms).prepare()


def room_of(name: str) -> str | None:
    """The folder of modist_fast that a module stands in; None for its root, and for other packages."""
    package, *folders = name.split(".")[:-1] or [""]
    return folders[0] if package == "modist_fast" and folders else None


def test_a_folder_is_read_in_one_sitting() -> None:
    for folder in {path.parent for path in modules().values()}:
        names = [path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "__main__")]
        assert len(names) <= MOST_MODULES, f"{folder.relative_to(REPOSITORY)} holds {len(names)} modules"

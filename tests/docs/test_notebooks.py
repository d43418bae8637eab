"""The notebooks run from top to bottom, and are stored with outputs that are small."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.commands.launching import HANG, REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture(autouse=True)
def packages_of_this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the kernel, a process of its own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))


def execute(notebook: Any, folder: Path) -> Any:
    client = NotebookClient(
        notebook,
        timeout=HANG,
        startup_timeout=HANG,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return notebook


def outputs(notebook: Any) -> list[list[str]]:
    """The kinds of output of each cell of code, but for warnings: a machine may have a reason for one."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [sorted({kind_of(output) for output in cell["outputs"]} - {"stderr"}) for cell in cells]


def kind_of(output: Any) -> str:
    picture = any(kind.startswith("image/") for kind in output.get("data", ()))
    return "picture" if picture else output.get("name", output["output_type"])


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    again = execute(nbformat.read(path, as_version=4), tmp_path)
    assert outputs(again) == outputs(stored)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_is_small_and_has_a_picture(path: Path) -> None:
    assert len(NOTEBOOKS) == 3
    assert path.stat().st_size < 300 * 1024
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert all(cell["execution_count"] for cell in stored["cells"] if cell["cell_type"] == "code")
    assert ["picture"] in outputs(stored) or ["picture", "stdout"] in outputs(stored)
    assert "stderr" not in {kind_of(output) for cell in stored["cells"] for output in cell.get("outputs", ())}
    assert str(REPOSITORY) not in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_fault_in_a_notebook_is_seen(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOKS[1], as_version=4)
    place, cell = next((n, cell) for n, cell in enumerate(notebook.cells) if "queue_infonce(" in cell.source)
    del notebook.cells[place + 1 :]
    cell.source = cell.source.replace("float().transpose(1, 2)\n", "float().transpose(1, 2) * 1.01\n")
    with pytest.raises(CellExecutionError, match="Tensor-likes are not close"):
        execute(notebook, tmp_path)

"""Taking measured configurations over: what the edited table says when it is run, and what it leaves alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from modist_fast.errors import ConfigError
from modist_kernels import configurations
from modist_kernels.configurations import EDGES_PROGRAMS, PARTIAL, PartialConfiguration
from modist_profiling.kernels.table import MeasuredEntry, MeasuredTable, read_table, rewritten
from modist_profiling.kernels.tuning import best_programs, write_configurations

SOURCE = Path(configurations.__file__).read_text(encoding="utf-8")
ENTRIES = [PartialConfiguration(16, 256, 8, 2, 264), PartialConfiguration(64, 64, 4, 3, 132)]


def table() -> MeasuredTable:
    """Of two tiles and the edges."""
    found = [MeasuredEntry(128, entry, 40.0, 50.0) for entry in ENTRIES]
    return MeasuredTable(90, "a GPU, torch 2", found, 1056, {"1": {"1056": 3.0}})


def executed(source: str) -> dict:
    module = type(sys)("edited")
    sys.modules["edited"] = module  # dataclasses look their module up
    exec(compile(source, "configurations.py", "exec"), module.__dict__)
    return {
        name: {
            key: [vars(e) for e in value] if name == "PARTIAL" else value for key, value in vars(module)[name].items()
        }
        for name in ("PARTIAL", "EDGES_PROGRAMS", "TIMED")
    }


def test_measured_entries_replace_theirs_and_no_others() -> None:
    edited = rewritten(SOURCE, table())
    found = executed(edited)
    expected = {key: [vars(entry) for entry in value] for key, value in PARTIAL.items()}
    kept = {entry["block_rows"]: entry for entry in expected[90, 128]}
    expected[90, 128] = [vars(ENTRIES[0]), kept[32], vars(ENTRIES[1]), kept[128]]
    assert found["PARTIAL"] == expected
    assert found["EDGES_PROGRAMS"] == EDGES_PROGRAMS | {90: 1056}
    assert found["TIMED"] == configurations.TIMED | {(90, "C 128"): "a GPU, torch 2", (90, "edges"): "a GPU, torch 2"}
    # Every line of the old text that names another chip, a comment or code is still there.
    gone = set(SOURCE.splitlines()) - set(edited.splitlines())
    assert all(line.lstrip().startswith(("(90, 128)", "EDGES_PROGRAMS", "TIMED")) for line in gone), gone


def test_a_second_measurement_replaces_the_first() -> None:
    later = table()
    later.measured_on, later.edges_programs = "a newer GPU", None
    found = executed(rewritten(rewritten(SOURCE, table()), later))
    assert found["EDGES_PROGRAMS"][90] == 1056
    assert found["TIMED"][90, "C 128"] == "a newer GPU"
    assert found["TIMED"][90, "edges"] == "a GPU, torch 2"


def test_the_edit_is_what_the_formatter_leaves_alone(tmp_path: Path) -> None:
    path, config = tmp_path / "configurations.py", Path(__file__).parents[2] / "pyproject.toml"
    path.write_text(SOURCE, encoding="utf-8")
    write_configurations(table(), path)
    for check in (["format", "--check"], ["check"]):
        command = [sys.executable, "-m", "ruff", *check, "--config", str(config), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table().write(path)
    assert read_table(path) == table()
    path.write_text('{"architecture": 90}')
    with pytest.raises(ConfigError, match="no table of tune_kernels"):
        read_table(path)


def test_an_unknown_chip_is_said() -> None:
    unknown = table()
    unknown.architecture = 70
    with pytest.raises(ConfigError, match=r"no entry for \(70, 128\)"):
        rewritten(SOURCE, unknown)


def test_every_number_of_frames_counts_alike() -> None:
    """A single frame's microsecond is worth as much as half of a millisecond."""
    assert best_programs({"1": {"8": 2.0, "16": 4.0}, "512": {"8": 1000.0, "16": 900.0}}) == 8
    assert best_programs({"1": {"8": 4.0, "16": 3.9}, "512": {"8": 1000.0, "16": 900.0}}) == 16

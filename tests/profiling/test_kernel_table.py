"""Taking measured configurations over: what the table says afterwards, and what stays as it was."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from modist_fast.errors import ConfigError
from modist_kernels.configurations import PARTIAL, TABLE_PATH, PartialConfiguration, partial_table
from modist_profiling.kernels.table import MeasuredEntry, MeasuredTable, read_table, taken_over, write_configurations
from modist_profiling.kernels.tuning import best_programs

CONTENT = json.loads(TABLE_PATH.read_text(encoding="utf-8"))
ENTRIES = [PartialConfiguration(16, 256, 8, 2, 264), PartialConfiguration(64, 64, 4, 3, 132)]


def table() -> MeasuredTable:
    """Of two tiles and the edges."""
    found = [MeasuredEntry(128, entry, 40.0, 50.0) for entry in ENTRIES]
    return MeasuredTable(90, "a GPU, torch 2", "3.9", found, 1056, {"1": {"1056": 3.0}})


def test_measured_entries_hold_from_their_triton_on_and_no_others_change() -> None:
    found = taken_over(CONTENT, table())
    for version in ("3.6.0", "3.8.1"):
        assert partial_table(found["queue_infonce"], version) == partial_table(CONTENT["queue_infonce"], version)
    expected = partial_table(CONTENT["queue_infonce"], "3.10.0")
    kept = {entry.block_rows: entry for entry in expected[90, 128]}
    expected[90, 128] = [ENTRIES[0], kept[32], ENTRIES[1], kept[128]]
    assert partial_table(found["queue_infonce"], "3.10.0") == expected
    assert [entry for entry in found["flow_edges"] if entry["architecture"] != 90] == [
        entry for entry in CONTENT["flow_edges"] if entry["architecture"] != 90
    ]
    assert {"architecture": 90, "num_programs": 1056, "timed": "a GPU, torch 2"} in found["flow_edges"]
    assert [entry.get("timed") for entry in found["queue_infonce"]].count("a GPU, torch 2") == 2


def test_a_second_measurement_replaces_the_first() -> None:
    later = table()
    later.measured_on, later.edges_programs = "a newer GPU", None
    once = taken_over(CONTENT, table())
    twice = taken_over(once, later)
    assert twice["flow_edges"] == once["flow_edges"]
    assert len(twice["queue_infonce"]) == len(once["queue_infonce"]) == len(CONTENT["queue_infonce"]) + 2
    assert {"a newer GPU"} == {entry["timed"] for entry in twice["queue_infonce"] if "timed" in entry}


def test_each_triton_has_its_entries() -> None:
    def entry(triton: str, rows: int, programs: int) -> dict:
        return {"architecture": 90, "dim": 64, "triton": triton} | asdict(
            PartialConfiguration(rows, 16, 4, 3, programs)
        )

    entries = [entry("3.10", 16, 3), entry("3.6", 16, 1), entry("3.6", 32, 2)]  # 3.10 is newer than 3.6
    for version, programs in (("3.6.0", [1, 2]), ("3.9.9", [1, 2]), ("3.10.0", [3, 2]), ("4.0.0+git1", [3, 2])):
        assert [one.num_programs for one in partial_table(entries, version)[90, 64]] == programs
    with pytest.raises(ValueError, match=r"no entries for Triton 3\.5\.1"):
        partial_table(entries, "3.5.1")


def test_the_shipped_file_is_what_the_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "configurations.json"
    shutil.copy(TABLE_PATH, path)
    write_configurations(MeasuredTable(90, "a GPU", "3.8"), path)
    assert path.read_text() == TABLE_PATH.read_text()
    write_configurations(table(), path)
    old, new = TABLE_PATH.read_text().splitlines(), path.read_text().splitlines()
    assert len(new) == len(old) + 2  # of a Triton that had none
    assert len(set(old) - set(new)) == 1  # the edges
    assert set(PARTIAL) == {(entry["architecture"], entry["dim"]) for entry in CONTENT["queue_infonce"]}


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
    with pytest.raises(ConfigError, match="of sm_70, and the kernels know only"):
        taken_over(CONTENT, unknown)


def test_every_number_of_frames_counts_alike() -> None:
    """A single frame's microsecond is worth as much as half of a millisecond."""
    assert best_programs({"1": {"8": 2.0, "16": 4.0}, "512": {"8": 1000.0, "16": 900.0}}) == 8
    assert best_programs({"1": {"8": 4.0, "16": 3.9}, "512": {"8": 1000.0, "16": 900.0}}) == 16

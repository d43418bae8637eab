"""Taking measured configurations over: what the table says afterwards, and what stays as it was."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import triton

from modist_fast.errors import ConfigError
from modist_kernels.configurations import PARTIAL, TABLE_PATH, PartialConfiguration, partial_table
from modist_profiling.kernels import tuning
from modist_profiling.kernels.table import Table, read_table, taken_over, write_table
from modist_profiling.kernels.tuning import best_programs

SHIPPED = read_table(TABLE_PATH)
ENTRIES = [PartialConfiguration(16, 256, 8, 2, 264), PartialConfiguration(64, 64, 4, 3, 132)]


def measured(timed: str = "a GPU, torch 2") -> Table:
    """Of two tiles and the edges."""
    head = {"architecture": 90, "triton": "3.9", "timed": timed}
    tiles = [head | {"dim": 128} | asdict(entry) | {"microseconds": 40.0} for entry in ENTRIES]
    return {"queue_infonce": tiles, "flow_edges": [head | {"num_programs": 1056}]}


def test_measured_entries_hold_from_their_triton_on_and_no_others_change() -> None:
    found = taken_over(SHIPPED, measured())
    for version in ("3.6.0", "3.8.1"):
        assert partial_table(found["queue_infonce"], version) == partial_table(SHIPPED["queue_infonce"], version)
    expected = partial_table(SHIPPED["queue_infonce"], "3.10.0")
    kept = {entry.block_rows: entry for entry in expected[90, 128]}
    expected[90, 128] = [ENTRIES[0], kept[32], ENTRIES[1], kept[128]]
    assert partial_table(found["queue_infonce"], "3.10.0") == expected
    programs = {entry["architecture"]: entry["num_programs"] for entry in SHIPPED["flow_edges"]}
    assert {entry["architecture"]: entry["num_programs"] for entry in found["flow_edges"]} == programs | {90: 1056}


def test_a_second_measurement_replaces_the_first() -> None:
    once = taken_over(SHIPPED, measured())
    twice = taken_over(once, measured("a newer GPU") | {"flow_edges": []})
    assert twice["flow_edges"] == once["flow_edges"]
    assert len(twice["queue_infonce"]) == len(once["queue_infonce"]) == len(SHIPPED["queue_infonce"]) + 2
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
    write_table(path, taken_over(SHIPPED, {"queue_infonce": [], "flow_edges": []}))
    assert path.read_text() == TABLE_PATH.read_text()
    write_table(path, taken_over(SHIPPED, measured()))
    old, new = TABLE_PATH.read_text().splitlines(), path.read_text().splitlines()
    assert len(new) == len(old) + 2  # tiles of a Triton that had none
    assert len(set(old) - set(new)) == 1  # the edges
    assert read_table(path) == taken_over(SHIPPED, measured())


def test_the_oldest_triton_has_every_tile_that_the_newest_has() -> None:
    oldest, newest = (partial_table(SHIPPED["queue_infonce"], version) for version in ("3.6.0", "99.0"))
    assert {key: [entry.block_rows for entry in entries] for key, entries in oldest.items()} == {
        key: [entry.block_rows for entry in entries] for key, entries in newest.items()
    }
    assert oldest != newest
    assert set(PARTIAL) == set(newest)


@pytest.mark.parametrize("text", ['{"queue_infonce": []}', "[]", "{", '{"queue_infonce": [{}], "flow_edges": []}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no table of tune_kernels"):
        read_table(path)


def test_an_unknown_chip_is_said() -> None:
    unknown = measured()
    unknown["flow_edges"][0]["architecture"] = 70
    with pytest.raises(ConfigError, match="of sm_70; the kernels know only"):
        taken_over(SHIPPED, unknown)


def test_what_is_measured_can_be_taken_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All but the GPU: every candidate fits, and the last that is timed is the fastest."""
    chip = SimpleNamespace(multi_processor_count=132)
    for name, value in {"is_available": True, "current_device": 0, "get_device_name": "a GPU"}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *device, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: chip)
    monkeypatch.setattr(tuning, "architecture", lambda device: 90)
    monkeypatch.setattr(tuning, "compiled", lambda *tile: [])
    monkeypatch.setattr(tuning, "_loss_inputs", lambda *shape: ())
    monkeypatch.setattr(tuning, "tune_edges", lambda *arguments: (1056, {"1": {"1056": 3.0}}))
    monkeypatch.setattr(
        tuning, "interleave", lambda runs, *options, **more: {run: [1 / n] for n, run in enumerate(runs, 1)}
    )
    found = tuning.measure(tuning.Options(dims=(128,), block_rows=(16, 64)))
    write_table(tmp_path / "table.json", found)
    assert read_table(tmp_path / "table.json") == found
    table = partial_table(taken_over(SHIPPED, found)["queue_infonce"], triton.__version__)
    last = [*tuning.candidates(64, 128, (88, 132, 264))][-1]
    assert last in table[90, 128]
    assert all(entry["microseconds"] > 0 for entry in found["queue_infonce"])


def test_every_number_of_frames_counts_alike() -> None:
    """A single frame's microsecond is worth as much as half of a millisecond."""
    assert best_programs({"1": {"8": 2.0, "16": 4.0}, "512": {"8": 1000.0, "16": 900.0}}) == 8
    assert best_programs({"1": {"8": 4.0, "16": 3.9}, "512": {"8": 1000.0, "16": 900.0}}) == 16

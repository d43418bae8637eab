"""Labelled videos for the tests of the evaluation: lists of the demo store, and small stores of moving textures."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from clip_store import jpeg, picture

from modist_pipelines.store import MotionInput, Store, StoreMeta
from modist_pipelines.store_writer import ShardWriter, quarantine_table, write_tables


def write_list(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def demo_rows(store: Path) -> list[dict[str, object]]:
    """The demo store's videos with their motion as label, four groups, and a split that keeps these apart."""
    opened = Store.open(store)
    groups = np.arange(opened.num_videos) // 4 % 4
    return [
        {"path": name, "label": label, "group": f"g{group}", "split": "test" if group == 3 else "train"}
        for name, label, group in zip(opened.videos, opened.labels, groups, strict=True)
    ]


def store_of_pictures(path: Path, seeds: Mapping[str, int]) -> Path:
    """Write a store of videos of five equal frames each, which are those of another video of the same seed."""
    path.mkdir()
    with ShardWriter(path, 0, ["edges"]) as writer:
        for name, seed in seeds.items():
            frame = jpeg(picture(32, 40, seed)).tobytes()
            for _ in range(5):
                writer.append(frame, {"edges": (jpeg(picture(32, 40, 0)[..., 0]).tobytes(), 1.0)})
            writer.finish_video(name, label=None, width=40, height=32, source_fps=30.0, num_source_frames=20)
    meta = StoreMeta(short_side=32, motion_inputs={"edges": MotionInput("px", 10.0)})
    write_tables(path, meta, writer.table(), quarantine_table([]))
    return path

"""Labelled videos for the tests of the evaluation: lists of the demo store, and small stores of moving textures."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from clip_store import jpeg, picture

from modist_pipelines.motion_inputs import MapScale
from modist_pipelines.store.reader import Store, StoreMeta
from modist_pipelines.store.writer import ShardWriter, quarantine_table, write_tables


def write_list(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def demo_rows(store: Path) -> list[dict[str, object]]:
    """The demo store's videos with their motion as label, four groups, and a split that keeps these apart."""
    opened = Store.open(store)
    groups = np.arange(opened.num_videos) % 4  # each holds videos of every motion
    return [
        {"path": name, "label": label, "group": f"g{group}", "split": "test" if group == 3 else "train"}
        for name, label, group in zip(opened.videos, opened.labels, groups, strict=True)
    ]


def store_of_pictures(path: Path, seeds: Mapping[str, int], sizes: Mapping[str, tuple[int, int]] | None = None) -> Path:
    """Write a store of videos of five equal frames each: those of another video of the same seed and size.

    Args:
        sizes: (width, height), by default (40, 32).
    """
    path.mkdir()
    with ShardWriter(path, 0, ["edges"]) as writer:
        for name, seed in seeds.items():
            width, height = (sizes or {}).get(name, (40, 32))
            frame = jpeg(picture(height, width, seed)).tobytes()
            edges = jpeg(np.zeros((height, width), np.uint8)).tobytes()
            for _ in range(5):
                writer.append(frame, {"edges": (edges, 1.0)})
            writer.finish_video(name, label=None, width=width, height=height, source_fps=30.0, num_source_frames=20)
    meta = StoreMeta(short_side=32, motion_inputs={"edges": MapScale("px", 10.0)})
    write_tables(path, meta, writer.table(), quarantine_table([]))
    return Store.open(path).path

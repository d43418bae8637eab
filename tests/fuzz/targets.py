"""What is fuzzed: how each file is made, and how the program takes it in."""

import itertools
import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from modist_fast.config import TrainConfig
from modist_fast.evaluation.backbones import open_backbone
from modist_fast.evaluation.config import BackboneConfig
from modist_fast.evaluation.data.views import ViewsConfig
from modist_fast.models import build_visual
from modist_fast.presets import PRESETS
from modist_fast.run import checkpoint
from modist_fast.run.export import export_backbone, load_backbone
from modist_fast.watch.ledger import Begun, read_ledger
from modist_fast.watch.run_log import read_metrics
from modist_fast.weights.reading import read_weights
from modist_fast.weights.writing import write_weights
from modist_pipelines.lists.listing import read_listing
from modist_pipelines.motion_inputs import MapScale
from modist_pipelines.plan import ClipSpec, PlanConfig, eligible_videos, plan_sample
from modist_pipelines.store.reader import Store, StoreMeta
from modist_pipelines.store.summary import Summary
from modist_pipelines.store.writer import ShardWriter, quarantine_table, write_tables
from tests.fuzz.mutations import damaged_bytes, damaged_json, damaged_table


@dataclass(frozen=True)
class Target:
    """A file, and whoever reads it.

    Attributes:
        make: writes whole files into a folder.
        file: in there, the one to damage.
        damage: does so.
        take: reads the folder as the program does; raises DataError or ConfigError where it cannot.
    """

    make: Callable[[Path], None]
    file: str
    damage: Callable[[Path, random.Random], None]
    take: Callable[[Path], object]


def _bytes(path: Path, draw: random.Random) -> None:
    path.write_bytes(damaged_bytes(path.read_bytes(), draw))


def _json(path: Path, draw: random.Random) -> None:
    path.write_text(damaged_json(path.read_text(), draw))


def _lines(path: Path, draw: random.Random) -> None:
    lines = path.read_text().splitlines()
    place = draw.randrange(len(lines))
    lines[place] = damaged_json(lines[place], draw)
    path.write_text("".join(line + "\n" for line in lines))


def _table(path: Path, draw: random.Random) -> None:
    pq.write_table(damaged_table(pq.read_table(path), draw), path, write_page_checksum=True)


def _parts(path: Path, draw: random.Random) -> None:
    """Damage a part of a zip, whose checksums then fit: the pickle as often as all others together."""
    with zipfile.ZipFile(path) as whole:
        parts = {entry.filename: whole.read(entry) for entry in whole.infolist()}
    pickled = next(name for name in parts if name.endswith("data.pkl"))
    name = pickled if draw.random() < 0.5 else draw.choice(list(parts))
    parts[name] = damaged_bytes(parts[name], draw)
    packed = zipfile.ZIP_DEFLATED if draw.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", packed) as whole:
        for part, data in parts.items():
            whole.writestr(part, data)


# A store


def _make_store(folder: Path) -> None:
    draw = np.random.default_rng(0)
    meta = StoreMeta(short_side=48, motion_inputs={"edges": MapScale("pixels", 10.0)}, grid=4)
    with ShardWriter(folder, 0, ["edges"]) as writer:
        for video in range(4):
            for _ in range(3 + video):
                writer.append(draw.bytes(40), {"edges": (draw.bytes(20), 1.0)})
            writer.finish_video(f"{video}.mp4", label="a", width=64, height=48, source_fps=30.0, num_source_frames=60)
    lost = quarantine_table([{"video": "b.mp4", "reason": "unreadable", "detail": "no"}])
    write_tables(folder, meta, writer.table(), lost)


def _take_store(folder: Path) -> None:
    """Open, read everything, plan: as `modist store check` and a run do."""
    store = Store.open(folder)
    str(Summary.of(store))
    store.content()
    for video, kind in itertools.product(range(store.num_videos), store.kinds):
        store.read_frames(video, kind, range(store.info(video).num_frames))
    plan = PlanConfig(ClipSpec(2, store.grid), ClipSpec(2, store.grid), 32, store.grid, store.fps)
    for video in eligible_videos(store, plan).videos:
        plan_sample(plan, 0, 0, int(video), store.info(int(video)))
    store.quarantine()


# A run


def _config(folder: Path) -> TrainConfig:
    return PRESETS["demo"](folder / "store", folder)


def _make_checkpoint(folder: Path) -> None:
    net = build_visual("r18", 4)
    state = {f"online.visual.{name}": tensor for name, tensor in net.state_dict().items()}
    whole = {
        "model": state,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}},
        "scaler": {},
        "store": "x",
    }
    checkpoint.save(folder, 7, whole, _config(folder))


def _make_export(folder: Path) -> None:
    card = {"arch": "r18", "width": 4, "crop_size": 32, "num_frames": 8, "stride": 8, "mean": 0.45, "std": 0.225}
    export_backbone(build_visual("r18", 4), folder / "backbone.safetensors", card)


def _make_weights(folder: Path) -> None:
    write_weights(build_visual("r18", 4), {"arch": "r18", "width": 4}, folder / "weights.pyth", "pyslowfast")


def _make_lines(folder: Path) -> None:
    values: dict[object, object] = {str: "", int: 1, bool: False}
    begun = {field.name: values.get(field.type) for field in fields(Begun)}
    steps = [{"step": step, "samples": "a", "loss": 1.0, "figures": "b"} for step in range(1, 4)]
    rows = [{"step": 0, "begun": begun}, *steps]
    (folder / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))


# Lists


def _make_lists(folder: Path) -> None:
    (folder / "1.webm").write_bytes(b"")
    (folder / "x_000001_000011.mp4").write_bytes(b"")
    (folder / "ssv2.json").write_text(json.dumps([{"id": "1", "template": "Holding [something]"}] * 3))
    (folder / "list.csv").write_text("path,label,split\n1.webm,a,train\n1.webm,b,test\n")
    (folder / "kinetics.csv").write_text("label,youtube_id,time_start,time_end,split\na,x,1,11,train\nb,y,2,12,val\n")


def _take_backbone(folder: Path) -> None:
    opened = open_backbone(BackboneConfig(str(folder / "backbone.safetensors")))
    if opened.card.keys() >= {"crop_size", "num_frames", "stride", "mean", "std"}:
        opened.views(ViewsConfig())


TARGETS = {
    "index": Target(_make_store, "index.parquet", _bytes, _take_store),
    "index-values": Target(_make_store, "index.parquet", _table, _take_store),
    "quarantine": Target(_make_store, "quarantine.parquet", _bytes, _take_store),
    "shard": Target(_make_store, "shards/00000.bin", _bytes, _take_store),
    "store-card": Target(_make_store, "store.json", _json, _take_store),
    "checkpoint": Target(
        _make_checkpoint,
        "checkpoints/step-00000007.pt",
        _bytes,
        lambda folder: checkpoint.load(checkpoint.folder_of(folder) / "step-00000007.pt", _config(folder), CPU),
    ),
    "checkpoint-parts": Target(
        _make_checkpoint,
        "checkpoints/step-00000007.pt",
        _parts,
        lambda folder: checkpoint.load(checkpoint.folder_of(folder) / "step-00000007.pt", _config(folder), CPU),
    ),
    "card": Target(_make_export, "backbone.json", _json, _take_backbone),
    "backbone": Target(
        _make_export, "backbone.safetensors", _bytes, lambda folder: load_backbone(folder / "backbone.safetensors")
    ),
    "weights": Target(_make_weights, "weights.pyth", _parts, lambda folder: read_weights(folder / "weights.pyth")),
    "metrics": Target(_make_lines, "metrics.jsonl", _lines, lambda folder: read_metrics(folder / "metrics.jsonl")),
    "ledger": Target(_make_lines, "ledger.jsonl", _lines, read_ledger),
    "list-json": Target(_make_lists, "ssv2.json", _json, lambda folder: read_listing(folder / "ssv2.json", folder)),
    "list-csv": Target(_make_lists, "list.csv", _bytes, lambda folder: read_listing(folder / "list.csv", folder)),
    "list-kinetics": Target(
        _make_lists, "kinetics.csv", _bytes, lambda folder: read_listing(folder / "kinetics.csv", folder, "kinetics")
    ),
}
CPU = torch.device("cpu")

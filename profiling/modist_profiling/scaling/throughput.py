"""A model of throughput on GPUs, not a measurement: Markdown tables of stages, bottlenecks and scaling.

    modist model-throughput [--store STORE] [--json FILE] [--host-us-per-frame 15 ...]

Arithmetic is counted by torch on the nets themselves; frame sizes are those of the options, or of --store.
"""

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from modist_fast.commands.cli import Parser, run_cli
from modist_fast.pathways import MoDist
from modist_fast.presets import PRESETS
from modist_fast.run.help_texts import field_texts
from modist_fast.run.options import check_ranges
from modist_pipelines.store.reader import Store
from modist_profiling.scaling.throughput_model import (
    DEVICES,
    SOURCES,
    Assumptions,
    Workload,
    bottleneck,
    scale,
    stage_rates,
)

LOCAL_BATCH = 8
NUM_GPUS = (1, 2, 4, 8, 16, 64, 512)
# (crop, short side of the store, its mean JPEG in bytes). Sizes: mean over RGB frames and edges of stores made by
# modist prepare of real videos, 3 of Kinetics' kind at 256 pixels and 120 of UCF101 at 144.
SIZES = ((224, 256, 22_800), (128, 144, 5_640))
ASPECT = 4 / 3
# Raw videos of Kinetics as it is passed around: 340x256, ten seconds. Bytes of the file over the 48 frames used.
RAW_PIXELS, RAW_BYTES = 340 * 256, 635_000 / 48


def count_flops(preset: str, crop_size: int) -> tuple[float, int]:
    """FLOPs of a training step for one sample, counted on the nets of a preset, and the parameters that learn.

    Forward and backward of the queries, forward of the keys; multiplications and additions count one each.
    """
    config = PRESETS[preset](None, Path("run"))
    clips = config.clips
    model = MoDist(config.model, config.objective, config.motion_channels)
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes alone: nothing is computed
        visual = torch.empty(2, 3, clips.visual.num_frames, crop_size, crop_size)
        motion = torch.empty(2, config.motion_channels, clips.motion.num_frames, crop_size, crop_size)
        with FlopCounterMode(display=False) as counter:
            model.online(visual, motion).sum().backward()
            with torch.no_grad():
                model.momentum(visual, motion)
    return counter.get_total_flops() / 2, sum(parameter.numel() for parameter in model.online.parameters())


def tables(preset: str, assumed: Assumptions, sizes: tuple[tuple[int, int, float], ...]) -> tuple[str, dict[str, Any]]:
    """The Markdown of all tables, and the same as data."""
    lines = ["| GPU | source | crop | " + " | ".join(_STAGES) + " | slowest stage | samples/s |"]
    record: dict[str, Any] = {"rows": [], "scaling": []}
    lines.append("| --- " * (len(_STAGES) + 5) + "|")
    rates_at_224 = {}
    counted = {}
    for crop, short_side, frame_bytes in sizes:
        flops, num_parameters = counted[crop] = count_flops(preset, crop)
        works = {
            "store": Workload(f"store at {short_side}", crop, short_side**2 * ASPECT, frame_bytes, flops),
            "raw": Workload("raw 340x256", crop, RAW_PIXELS, RAW_BYTES, flops),
        }
        for device in DEVICES:
            for source, work in works.items():
                rates = stage_rates(device, work, source, assumed)
                stage, rate = bottleneck(rates)
                cells = " | ".join(f"{rates[name]:,.0f}" if name in rates else "–" for name in _STAGES)
                lines.append(f"| {device.name} | {work.name} | {crop}² | {cells} | {stage} | {rate:,.0f} |")
                record["rows"].append({"device": device.name, "work": asdict(work), "rates": rates, "slowest": stage})
                if crop == sizes[0][0] and source == "store":
                    rates_at_224[device.name] = (device, work, rate, num_parameters)
    lines += ["", "| GPU | GPUs | samples/s | storage GB/s | keys in | gradients | all_gather | all_reduce | step |"]
    lines[-1] += " efficiency |"
    lines.append("| --- " * 10 + "|")
    for device, work, rate, num_parameters in rates_at_224.values():
        for num_gpus in NUM_GPUS:
            found = scale(device, work, rate, num_gpus, assumed, local_batch=LOCAL_BATCH, num_parameters=num_parameters)
            lines.append(
                f"| {device.name} | {num_gpus} | {found.samples_per_s:,.0f} | {found.storage_gbs:,.2f} | "
                f"{found.key_bytes / 1e6:.2f} MB | {found.gradient_bytes / 1e6:.0f} MB | {found.gather_ms:.2f} ms | "
                f"{found.reduce_ms:.2f} ms | {found.step_ms:.1f} ms | {100 * found.efficiency:.0f} % |"
            )
            record["scaling"].append({"device": device.name, **asdict(found)})
    record["flops_per_sample"] = {str(crop): flops for crop, (flops, _) in counted.items()}
    return "\n".join(lines), record


_STAGES = ("decoders", "host's decoders", "PCIe", "host", "augmentation", "compute")


def store_bytes(path: Path) -> float:
    """Mean bytes of a frame of a store, over RGB and motion as a sample uses them (1 : 2)."""
    store = Store.open(path)
    sizes = store.frame_bytes()
    motion = [size for kind, size in sizes.items() if kind != "rgb"]
    return sizes["rgb"] / 3 + 2 / 3 * sum(motion) / len(motion)


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="modist-r50", help="nets and clips")
    parser.add_argument("--store", type=Path, help="take the frames' size from it, at the crop of the preset")
    parser.add_argument("--json", type=Path, help="file that takes the tables and what they were made from")
    texts = field_texts(Assumptions)
    for entry in fields(Assumptions):
        option = f"--{entry.name.replace('_', '-')}"
        text = texts[entry.name].replace("%", "%%")
        parser.add_argument(option, type=type(entry.default), default=entry.default, help=text)
    options = parser.parse_args()
    assumed = Assumptions(**{entry.name: getattr(options, entry.name) for entry in fields(Assumptions)})
    check_ranges(assumed)
    sizes = SIZES
    if options.store is not None:
        store = Store.open(options.store)
        crop = PRESETS[options.preset](None, Path("run")).clips.crop_size
        sizes = ((crop, store.meta.short_side, store_bytes(options.store)),)
    text, record = tables(options.preset, assumed, sizes)
    print("A model, not a measurement. Samples a second that each stage of one GPU could do:\n")
    print(text)
    if options.json is not None:
        record |= {"assumptions": asdict(assumed), "devices": [asdict(device) for device in DEVICES]}
        options.json.write_text(json.dumps(record | {"sources": SOURCES}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_cli(main)

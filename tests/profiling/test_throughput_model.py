"""The throughput model: one row by hand, the counted arithmetic, and a page that says what the command prints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clip_store import make_store
from torch.utils.flop_counter import FlopCounterMode

from modist_fast.pathways import MoDist
from modist_fast.presets import PRESETS
from modist_profiling.scaling.throughput import SIZES, count_flops, store_bytes, tables
from modist_profiling.scaling.throughput_model import (
    DEVICES,
    Assumptions,
    Device,
    Workload,
    bottleneck,
    scale,
    stage_rates,
)

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parents[2] / "docs" / "throughput-model.md"
DEVICE = Device("toy", 100.0, 1000.0, 10.0, 100.0, 1000.0, 500.0)
WORK = Workload("toy", 100, 1920 * 1080 / 10, 1e4, 2e11)
ASSUMED = Assumptions(0.5, 0.8, 0.6, 250.0, 4, 1000.0, 0.5, 20.0, 10.0, 5.0, 20.0, 4)


def test_a_row_by_hand():
    store, raw = (stage_rates(DEVICE, WORK, source, ASSUMED) for source in ("store", "raw"))
    assert store == pytest.approx(
        {
            "decoders": 250 / 0.4 * 10 * 0.8 / 48,  # the engines would be done with their 60 % sooner
            "PCIe": 5e9 / 480_000,
            "host": 50_000 / 48,
            "augmentation": 1e12 / (10 * 40_000 * (48 + 32)),
            "compute": 50e12 / 2e11,
        }
    )
    assert raw["decoders"] == pytest.approx(1000 * 10 * 0.8 / 240)
    assert bottleneck(store) == ("decoders", pytest.approx(104.17, rel=1e-3))
    assert bottleneck(raw)[1] == pytest.approx(33.33, rel=1e-3)
    alone = stage_rates(DEVICE, WORK, "store", replace(ASSUMED, hw_decoder_load=1.0))
    assert alone["decoders"] == pytest.approx(500 * 10 * 0.8 / 48)
    best = stage_rates(DEVICE, WORK, "store", replace(ASSUMED, hw_decoder_load=500 / 750))
    assert best["decoders"] == pytest.approx(750 * 10 * 0.8 / 48)
    cores = replace(ASSUMED, host_cores=8)
    helped = stage_rates(DEVICE, WORK, "store", cores)
    assert helped["decoders"] == pytest.approx(3 * store["decoders"]), "16 of 48 JPEGs are left to the GPU"
    assert helped["host's decoders"] == pytest.approx(8 * 1000 * 256 * 341 / (192 * 1080) / 32)
    assert stage_rates(DEVICE, WORK, "raw", cores) == raw, "raw videos hold no motion maps"
    assert raw == stage_rates(DEVICE, WORK, "raw", replace(ASSUMED, hw_decoder_load=1.0))


def test_scaling_by_hand():
    inside = scale(DEVICE, WORK, 80.0, 4, ASSUMED, local_batch=8, num_parameters=25e6)
    assert inside.key_bytes == 8 * 2 * 128 * 4 * 3
    assert inside.gradient_bytes == 2 * 100e6 * 3 / 4
    assert inside.step_ms == pytest.approx(100 + 150e6 / 100e9 * 1e3 + inside.key_bytes / 100e9 * 1e3)
    assert inside.samples_per_s == pytest.approx(32 / inside.step_ms * 1e3)
    assert inside.storage_gbs == pytest.approx(inside.samples_per_s * 480_000 / 1e9)
    across = scale(DEVICE, WORK, 80.0, 8, ASSUMED, local_batch=8, num_parameters=25e6)
    assert across.reduce_ms == pytest.approx(1e3 * across.gradient_bytes / 20e9)  # the network, not NVLink


def test_more_gpus_never_raise_the_rate_of_each():
    for device in DEVICES:
        found = [
            scale(device, WORK, 700.0, num, Assumptions(), local_batch=8, num_parameters=37e6)
            for num in (1, 2, 4, 8, 16, 64, 512)
        ]
        assert [part.efficiency for part in found] == sorted((part.efficiency for part in found), reverse=True)
        assert found[0].efficiency == 1.0


def test_flops_are_those_of_the_nets_when_they_run():
    """Counted on shapes alone against a real step of the demo's nets."""
    config = PRESETS["demo"](None, Path("run"))
    model = MoDist(config.model, config.objective)
    with FlopCounterMode(display=False) as counter:
        model.online(torch.rand(3, 3, 8, 32, 32), torch.rand(3, 1, 16, 32, 32)).sum().backward()
        with torch.no_grad():
            model.momentum(torch.rand(3, 3, 8, 32, 32), torch.rand(3, 1, 16, 32, 32))
    flops, num_parameters = count_flops("demo", 32)
    assert flops == pytest.approx(counter.get_total_flops() / 3)
    assert num_parameters == sum(parameter.numel() for parameter in model.online.parameters())


def test_bytes_of_a_store(tmp_path):
    store = make_store(tmp_path, [5, 9])
    sizes = {kind: [] for kind in ("rgb", "edges")}
    for video, num in enumerate((5, 9)):
        for kind, found in sizes.items():
            found += [len(jpeg) for jpeg in store.read_frames(video, kind, range(num))]
    mean = {kind: sum(found) / len(found) for kind, found in sizes.items()}
    assert store_bytes(tmp_path) == pytest.approx(mean["rgb"] / 3 + 2 * mean["edges"] / 3)


@pytest.mark.long
def test_the_page_shows_what_the_command_prints():
    text, _ = tables("modist-r50", Assumptions(), SIZES)
    page = DOCS.read_text(encoding="utf-8")
    assert text in page, "run profiling/model_throughput.py and put its tables into docs/throughput-model.md"
    changed, _ = tables("modist-r50", replace(Assumptions(), small_frame_share=0.25), SIZES)
    row = next(line for line in changed.splitlines() if line.startswith("| H100 SXM | store at 256"))
    assert "| 1,695 | 1,486 |" in row  # as the page says

"""The plain step computes what the project's step computes, each choice included; the benchmark's sums by hand."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from modist_fast.host.distributed import join_world
from modist_fast.objective import TERMS
from modist_fast.step import TrainingStep
from modist_profiling.frame.report import print_rows
from modist_profiling.frame.rows import run_rows
from modist_profiling.step import bench
from modist_profiling.step.bench import Options, StepRow, ratios_of, start, step_rows
from modist_profiling.step.plain import CHOICES, PlainStep, same_weights
from modist_profiling.step.worker import fill_bank, made_up_batch, step_config

pytestmark = pytest.mark.slow

SPEC = {"batch": 4, "crop": 32, "bank": 64}


def small_config():
    config = step_config(SPEC)
    model = replace(config.model, visual_width=8, motion_width=4, head_width=32)
    return replace(config, model=model, precision="fp32", optim=replace(config.optim, lr=0.01, weight_decay=0.0))


@pytest.mark.parametrize("choices", [[], list(CHOICES)], ids=["plain", "every choice"])
def test_plain_step_computes_the_same(choices: list[str]) -> None:
    config = small_config()
    exact = [choice for choice in choices if choice != "bf16"]
    with join_world("cpu") as world:
        ours = TrainingStep(config, world)
        plain = PlainStep(config, frozenset(exact), world.device)
        same_weights(plain.net, ours.model.online)
        plain.momentum.load_state_dict(plain.net.state_dict())
        before = [weight.detach().clone() for weight in ours.model.online.parameters()]
        fill_bank(ours.model.bank.keys, ours.model.bank.video_ids)
        fill_bank(plain.bank, plain.bank_ids)
        for number in range(3):
            batch = made_up_batch(config, world.device)
            batch = replace(batch, video_ids=np.arange(number, number + 4, dtype=np.int32))
            assert batch.motion_query is not None
            assert batch.motion_key is not None
            queries = [plain.clips(clip) for clip in (batch.visual_query, batch.motion_query)]
            keys = [plain.clips(clip) for clip in (batch.visual_key, batch.motion_key)]
            mine = ours(batch, config.optim.lr)
            theirs = plain(queries, keys, torch.from_numpy(batch.video_ids))
            torch.testing.assert_close(torch.stack([mine[f"loss_{term}"] for term in TERMS]), theirs, rtol=1e-3, atol=0)
    start = dict(zip(dict(plain.net.named_parameters()), before, strict=True))
    theirs = dict(plain.net.named_parameters())
    for name, weight in ours.model.online.named_parameters():
        wanted = theirs[name]
        if name == "motion.stem.weight":  # three equal channels: √3 times as large in sum, behind batch norm
            wanted = wanted.sum(dim=1, keepdim=True) / wanted.shape[1] ** 0.5
        moved = float((weight - start[name]).detach().norm())
        assert moved > 0, name
        # What the banks hold is rounded to fp16 on our side alone.
        assert float((weight - wanted).detach().norm()) < 0.05 * moved, name
    # The batches went into the same slots.
    torch.testing.assert_close(ours.model.bank.keys.float(), plain.bank.float(), rtol=0, atol=2e-3)
    assert torch.equal(ours.model.bank.video_ids, plain.bank_ids)


def row(name: str, *times: float) -> StepRow:
    measured = {"times": list(times), "cpu_times": [2 * time for time in times], "baseline": [30, 10, 20]}
    return StepRow("step", name, spec={}, flops=2e9, operations=70, host_mb=100, **measured)


def test_ratios_and_table(capsys: pytest.CaptureFixture[str]) -> None:
    absent = StepRow("nets", "absent", missing="not installed (pip)", spec={})
    rows = [row("plain", 30, 10, 20), row("modist step", 4, 5, 6), absent]
    assert ratios_of(rows) == {"step_speedup_vs_plain": 4, "step_cpu_time_vs_plain": 4}
    print_rows(rows)
    lines = [re.split(r" *\| *", line)[1:-1] for line in capsys.readouterr().out.splitlines() if line]
    # Median, p20, p80, CPU, GFLOP, TFLOP/s, calls, memory, speed-up
    assert lines[4] == ["modist step", "5", "4.4", "5.6", "10", "2", "0.400", "70", "100", "4.00×"]
    assert lines[-1] == ["absent", "not installed (pip)"]


@pytest.mark.long
def test_rows_run_in_processes_of_their_own() -> None:
    rows = step_rows(Options(batch=2, crop=32, bank=256, threads=1))
    ends = [rows[0], rows[1], rows[-1]]
    assert [one.name for one in ends] == ["plain", "+ edge maps in one channel", "modist step"]
    assert [one.spec["choices"] for one in rows[1:-1]] == [list(CHOICES)[: n + 1] for n in range(len(CHOICES))]
    run_rows(ends, start, rounds=2, together=2)  # the first beside each of the others
    assert [len(one.times) for one in ends] == [4, 2, 2]
    assert all(min(one.times) > 0 and one.host_mb > 100 for one in ends)
    assert [one.baseline for one in ends] == [ends[0].times, ends[0].times[:2], ends[0].times[2:]]
    assert 0 < 1.5 * ends[2].operations < ends[0].operations


def test_rows_that_a_cpu_would_emulate_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choices after bf16 are measured without it, and a net is compared in the precision that training takes."""
    monkeypatch.setattr(bench, "multiplies_bf16", lambda device: False)
    rows = step_rows(Options(device="cpu"))
    assert [row.name for row in rows if row.missing] == ["+ bf16 autocast"]
    assert "bf16" not in rows[-2].spec["choices"]
    assert len(rows[-2].spec["choices"]) == len(CHOICES) - 1
    nets = bench.backbone_rows(Options(device="cpu"))
    assert all(row.missing for row in nets if "bf16" in row.name)
    assert not any(row.missing for row in nets if row.name.startswith(("modist", "torchvision")) and "fp32" in row.name)
    found = ratios_of([row("torchvision r3d_18, fp32", 80), row("modist R3D-18, fp32", 20)])
    assert found == {"backbone_speedup_vs_torchvision_fp32": 4}
    monkeypatch.undo()
    monkeypatch.setattr(bench, "multiplies_bf16", lambda device: True)
    assert not any(row.missing for row in step_rows(Options(device="cpu")))

"""The step budget against sums by hand, and the verdict on budgets that were made up."""

from typing import Any

import pytest

from modist_fast.watch.budget import (
    BACKGROUND,
    COLUMNS,
    PHASES,
    WARM_UP_STEPS,
    RankBudget,
    RunBudget,
    RunFacts,
    table,
)
from modist_fast.watch.verdict import verdict

CLIPS = {"frames_used": 4, "frames_decoded": 6, "bytes_read": 300, "bytes_needed": 200, "videos_damaged": 1}
FACTS = RunFacts(
    batch_size=16,
    clips_per_sample=4,
    source="the store",
    device="cpu",
    flops_per_step=6e9,
    peak_flops=4e9,
    peak_source="a peak",
    rejected_windows=0.25,
)


def warmed_up(world_size: int) -> RunBudget:
    """After a slow window that does not count, but for its clips."""
    run = RunBudget(world_size)
    rank = RankBudget()
    for _ in range(WARM_UP_STEPS):
        assert not rank.is_due
        rank.add(100.0, {"data_wait": 90.0}, {"read": 50.0}, CLIPS, launch=1.0, ready=0)
    assert rank.is_due
    run.add(WARM_UP_STEPS, [rank.take(host_mb=500, device_mb=0)] * world_size)
    assert run.summary(FACTS, {}) == {}
    assert table({}) == ""
    return run


def test_phases_make_up_the_step_on_every_rank():
    run = warmed_up(2)
    fast, slow = RankBudget(), RankBudget()
    fast.add(2.0, {"data_wait": 0.5, "backward": 1.0}, {"read": 0.25}, CLIPS, launch=1.5, ready=3)
    late = {"data_wait": 0.1, "backward": 2.0, "checkpoint": 0.3}
    fast.add(4.0, late, {"read": 0.75}, CLIPS, launch=2.0, ready=2, core_wait=1.5)
    slow.add(3.0, {"backward": 3.0}, {"decode": 2.0}, CLIPS, launch=3.0, ready=1)
    slow.add(3.0, {"backward": 3.0}, {}, CLIPS, launch=3.0, ready=1)
    line = run.add(6, [fast.take(host_mb=700, device_mb=10), slow.take(host_mb=600, device_mb=20)])
    assert (line["step"], line["num_steps"], line["seconds"]) == (6, 2, [6.0, 6.0])
    assert line["phases"]["backward"] == [3.0, 6.0]
    assert line["phases"]["other"] == pytest.approx([2.1, 0.0])
    assert line["background"] == {"plan": [0, 0], "read": [1.0, 0], "decode": [0, 2.0]}
    found = run.summary(FACTS, {"power_w": 300.0})
    assert (found["first_step"], found["num_steps"], found["world_size"]) == (5, 2, 2)
    assert (found["seconds_per_step"], found["samples_per_s"]) == (3.0, pytest.approx(16 / 3))
    assert found["clips_per_s"] == pytest.approx(64 / 3)
    shares = {name: phase["share"] for name, phase in found["phases"].items()}
    by_hand = {"data_wait": 0.05, "backward": 0.75, "checkpoint": 0.025, "other": 0.175}
    assert shares == pytest.approx(dict.fromkeys(PHASES, 0.0) | by_hand)
    assert found["phases"]["backward"]["by_rank"] == [1.5, 3.0]
    assert found["background"] == {"plan": 0, "read": 0.25, "decode": 0.5}
    assert found["launch_share"] == 1.0
    assert found["core_wait"] == [0.25, 0.0]
    assert found["flops"]["per_second"] == 2e9
    assert found["flops"]["peak_share"] == 0.5
    assert found["memory"] == {"host_mb": 700, "device_mb": 20}
    # Clips are counted from the first step on: 4 and 2 steps of 2 ranks.
    data = found["data"]
    assert (data["amplification"], data["bytes_read_vs_needed"], data["videos_damaged"]) == (1.5, 1.5, 6)
    assert data["queue_depth"] == 2.5
    lines = table(found).splitlines()
    assert lines[0].startswith("step budget over 2 steps of 2 processes: 3000.0 ms a step, 5.3 samples/s")
    assert lines[1].split() == ["backward", "2250.0", "ms", "75.0", "%", "1500.0", "to", "3000.0"]
    assert "50 % of a peak" in table(found)
    assert "power_w 300" in table(found)


def test_a_window_of_every_twenty_steps():
    rank, taken = RankBudget(), []
    for step in range(1, 65):
        rank.add(1.0, {}, {}, {}, launch=0.0, ready=0)
        if rank.is_due:
            taken.append((step, dict(zip(COLUMNS, rank.take(0, 0), strict=True))["num_steps"]))
    assert taken == [(4, 4), (24, 20), (44, 20), (64, 20)]


def made_up(device: str = "cpu", peak_share: float = 0.4, launch: float = 0.5, **phases: list[float]) -> dict[str, Any]:
    """A summary of steps of one second; the rest of each rank's step is backward."""
    num_ranks = max((len(by_rank) for by_rank in phases.values()), default=1)
    full = {name: phases.get(name, [0.0] * num_ranks) for name in (*PHASES, "other")}
    full["backward"] = [1 - sum(by_rank[rank] for by_rank in full.values()) for rank in range(num_ranks)]
    shares = {
        name: {"seconds": sum(values) / num_ranks, "share": sum(values) / num_ranks, "by_rank": values}
        for name, values in full.items()
    }
    return {
        "device": device,
        "world_size": num_ranks,
        "seconds_per_step": 1.0,
        "phases": shares,
        "launch_share": launch,
        "core_wait": [0.0] * num_ranks,
        "load": "1.0 threads want to run on 2 cores",
        "background": {"plan": 0.1, "read": 0.1, "decode": 0.2},
        "flops": {"peak_share": peak_share, "peak_source": "a peak"},
        "data": {"source": "the store"},
    }


@pytest.mark.parametrize(
    ("summary", "bottleneck", "words"),
    [
        (made_up(data_wait=[0.61]), "decode", ["61 % of the step waits for data", "--loader.num-threads"]),
        (made_up(checkpoint=[0.3], data_wait=[0.2]), "checkpoint", ["30 %", "--checkpoint.every"]),
        (made_up(log=[0.2]), "log", ["--out"]),
        (made_up(log=[0.2], peak_share=0.02), "overhead", ["2 % of a peak"]),
        (made_up(log=[0.5], peak_share=0.02), "log", ["50 %"]),
        (made_up(loss=[0.3]), "loss", ["30 % of the step is the loss"]),
        (made_up(momentum=[0.2], optimizer=[0.15]), "overhead", ["35 %", "momentum, 20 %", "--batch-size"]),
        (made_up(peak_share=0.02), "overhead", ["2 % of a peak"]),
        (made_up(gather=[0.1, 0.1], all_reduce=[0.2, 0.2]), "communication", ["30 %", "gradients 20 %", "keys 10 %"]),
        (made_up(momentum=[0.2], checkpoint=[0.15]), "checkpoint", ["15 %"]),
        (made_up(), "compute", ["100 % of the step is the nets", "40 % of a peak"]),
        (made_up(data_wait=[0.09], checkpoint=[0.09], momentum=[0.2]), "compute", ["62 % of the step is the nets"]),
        (made_up("cuda", launch=0.97), "launch", ["97 %", "--compile"]),
        (made_up("cpu", launch=0.97), "compute", []),
        (made_up("cuda", launch=0.8), "compute", []),
        (made_up("cuda", launch=0.97, data_wait=[0.6]), "decode", []),
    ],
)
def test_verdict(summary, bottleneck, words):
    found = verdict(summary)
    assert found.bottleneck == bottleneck
    assert found.line.startswith(f"{bottleneck}-bound: ")
    assert "\n" not in found.line
    assert all(word in found.line for word in words), found.line


def test_straggler_is_named_with_what_holds_it_up():
    # Ranks 0 and 1 wait 0.4 s for rank 2, which waits for its data.
    summary = made_up(gather=[0.4, 0.4, 0.0], data_wait=[0.05, 0.05, 0.45])
    found = verdict(summary)
    assert found.bottleneck == "straggler"
    assert found.straggler is not None
    assert (found.straggler.rank, found.straggler.phase) == (2, "data_wait")
    assert found.straggler.ratio == pytest.approx(1 / 0.6)
    assert found.straggler.cost == pytest.approx(0.4)
    assert "rank 2 takes 1.7 times as long" in found.line
    # Equal ranks that wait for the wire are another matter.
    assert verdict(made_up(gather=[0.4, 0.4, 0.4])).bottleneck == "communication"


def test_a_process_without_a_core_comes_before_all_else():
    summary = made_up(gather=[0.4, 0.4, 0.0], data_wait=[0.05, 0.05, 0.45])
    for share, bottleneck in ((0.24, "straggler"), (0.26, "starved")):
        summary["core_wait"] = [0.0, 0.1, share]
        assert verdict(summary).bottleneck == bottleneck
    line = verdict(summary).line
    assert line.startswith("starved: the process of rank 2 was ready to run and had no core for 26 % of the time")
    assert "1.0 threads want to run on 2 cores" in line


def test_stage_of_late_data():
    for stage in BACKGROUND:
        summary = made_up(data_wait=[0.5])
        summary["background"][stage] += 0.6
        if stage == "plan":  # who waits for a read waits for its plan
            summary["background"]["read"] += 0.6
        assert verdict(summary).bottleneck == stage
    raw = made_up(data_wait=[0.5])
    raw["data"]["source"] = "raw videos"
    raw["background"]["decode"] = 1.0
    assert "train from a store" in verdict(raw).line

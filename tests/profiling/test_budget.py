"""The step budget against sums by hand."""

import pytest

from modist_profiling.budget import StepBudget

CLIPS = {"frames_used": 4, "frames_decoded": 6, "bytes_read": 300, "bytes_needed": 200, "videos_damaged": 1}


def test_phases_make_up_the_step():
    budget = StepBudget("the store")
    for _ in range(3):  # the warm-up: slow, and not counted
        budget.add(100.0, {"data wait": 90.0}, {"read": 50.0}, CLIPS, 0)
    assert budget.summary() == {}
    assert budget.table() == ""
    budget.add(2.0, {"data wait": 0.5, "backward": 1.0}, {"read": 0.25}, CLIPS, 3)
    budget.add(4.0, {"data wait": 0.1, "backward": 2.0, "checkpoint": 0.3}, {"read": 0.75}, CLIPS, 2)
    found = budget.summary()
    assert found["num_steps"] == 2
    assert found["seconds_per_step"] == 3.0
    shares = {name: phase["share"] for name, phase in found["phases"].items()}
    assert shares == pytest.approx({"data wait": 0.1, "backward": 0.5, "checkpoint": 0.05, "other": 0.35})
    assert sum(shares.values()) == pytest.approx(1)
    assert found["background"] == {"read": 0.5}
    assert found["queue_depth"] == 2.5
    # Clips are counted from the first step on.
    assert (found["amplification"], found["bytes_read_vs_needed"], found["videos_damaged"]) == (1.5, 1.5, 5)
    table = budget.table().splitlines()
    assert table[0] == "step budget over 2 steps: 3000.0 ms a step"
    assert [line.split()[0] for line in table[1:5]] == ["backward", "other", "data", "checkpoint"]
    assert "clips from the store: 1.50 frames decoded and 1.50 bytes read for one needed; 2.5 steps ready" in table[-1]

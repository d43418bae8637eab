"""Whether a run is called launch-bound: from the clocks of host and device through spans and lines to the verdict."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from modist_fast.host.distributed import join_world
from modist_fast.host.read_later import ReadLater
from modist_fast.watch.budget import WARM_UP_STEPS, RunFacts
from modist_fast.watch.budget_keeper import BudgetKeeper
from modist_fast.watch.metrics import Display, Recorder
from modist_fast.watch.spans import Spans
from modist_pipelines.clips.loader import ClipBatch

NUM_STEPS = WARM_UP_STEPS + 4
FACTS = RunFacts(8, 4, "the store", "cuda", 4e9, 8e9, "a peak", None)


class Machine:
    """A host that gives a device work without waiting for it, and its two clocks, in seconds from 0."""

    waits_show = False

    def __init__(self) -> None:
        self.now = self.busy_until = 0.0

    def launch(self, host: float, device: float) -> None:
        self.busy_until = max(self.busy_until, self.now) + device
        self.now += host

    def mark(self) -> float:
        return max(self.now, self.busy_until)

    def seconds(self, start: float, stop: float) -> float:
        return stop - start


def verdict_of(machine: Machine, out: Path, launching: float, computing: float, writing: float) -> dict:
    """RUN/budget.json of steps that keep the host and the device busy for that long each."""
    spans = Spans(machine)
    counters: dict[str, int] = dict.fromkeys(("frames_used", "frames_decoded", "bytes_read", "bytes_needed"), 1)
    rows, clips = np.zeros(8, np.int32), torch.zeros(1)
    with join_world("cpu") as world:
        keeper = BudgetKeeper(world, FACTS, out)
        recorder = Recorder(8, spans, None, Display(NUM_STEPS, 0, shown=False), keeper)
        for step in range(NUM_STEPS):
            with spans("backward"):
                machine.launch(launching, computing)
            figures = {name: torch.ones(()) for name in ("loss", "videos_damaged")}
            batch = ClipBatch(step, 0, rows, rows, clips, clips, None, None, rows > 0, counters, spans={"read": 0.0})
            recorder.push(batch, 0.1, figures, stop=False)
            machine.now += writing  # the figures that are due are there: their line is written
        recorder.flush()
        keeper.close()
    return json.loads((out / "budget.json").read_text())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The host's clock is the machine's, and the figures of a step are there when its device has computed them."""
    machine = Machine()
    monkeypatch.setattr(time, "perf_counter", lambda: machine.now)
    came = {}
    make, read = ReadLater.__init__, ReadLater.tolist

    def begin(self: ReadLater, tensor: torch.Tensor) -> None:
        make(self, tensor)
        came[self] = machine.busy_until

    def wait(self: ReadLater) -> list:
        machine.now = max(machine.now, came.pop(self))
        return read(self)

    monkeypatch.setattr(ReadLater, "__init__", begin)
    monkeypatch.setattr(ReadLater, "tolist", wait)
    return machine


def test_a_host_that_waits_for_its_gpu_is_not_launch_bound(machine: Machine, tmp_path: Path) -> None:
    found = verdict_of(machine, tmp_path, launching=0.1, computing=1.0, writing=0.0)
    assert found["seconds_per_step"] == pytest.approx(1.0, rel=0.05)
    assert found["launch_share"] == pytest.approx(0.1, rel=0.05)  # with the wait in it, 1.0
    assert found["bottleneck"] == "compute"


def test_a_host_that_launches_all_the_time_is(machine: Machine, tmp_path: Path) -> None:
    found = verdict_of(machine, tmp_path, launching=0.9, computing=0.5, writing=0.1)
    assert found["launch_share"] == pytest.approx(0.9, rel=0.05)
    assert found["bottleneck"] == "launch"
    assert found["verdict"].startswith("launch-bound: the host launches kernels during 90 % of the step")

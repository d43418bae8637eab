"""Spans on a clock that tells its times later, as a GPU does."""

import time
from dataclasses import dataclass

import pytest
import torch

from modist_fast.watch.spans import HostClock, Spans, annotate


@dataclass
class LateClock:
    """Marks are places in a queue of work; their times are known once the queue has run."""

    waits_show = False

    def __post_init__(self) -> None:
        self.times: list[float | None] = []

    def mark(self) -> int:
        self.times.append(None)
        return len(self.times) - 1

    def run(self, *times: float) -> None:
        """The device passes the marks so far at these times."""
        start = self.times.index(None)
        assert len(times) == len(self.times) - start
        self.times[start:] = times

    def seconds(self, start: int, stop: int) -> float:
        early, late = self.times[start], self.times[stop]
        assert early is not None
        assert late is not None, "asked before the device was there"
        return late - early


def test_times_are_read_after_the_device_has_passed():
    clock = LateClock()
    spans = Spans(clock)
    with spans("keys"):
        pass
    with spans("loss"):
        pass
    with spans("keys"):
        pass
    first = spans.take()
    with spans("keys"):
        pass
    second = spans.take()
    clock.run(1, 2, 2, 5, 6, 10, 17, 18)
    assert first.seconds() == {"keys": 5, "loss": 3}
    assert second.seconds() == {"keys": 1}
    assert spans.take().seconds() == {}
    # The device stood still from 10 to 17: that, and no more, can the host's waiting have cost.
    assert second.data_wait(host_wait=3) == 3
    assert second.data_wait(host_wait=30) == 7
    assert first.data_wait(host_wait=30) == 30, "nothing came before the first step"


def test_what_backward_waits_for_has_a_name_of_its_own():
    clock = LateClock()
    spans = Spans(clock)
    with spans("backward"):
        spans.rest_is("all_reduce")  # the first bucket sets off while backward goes on
        spans.rest_is("all_reduce")
    with spans("optimizer"):
        pass
    clock.run(0, 4, 7, 9, 9, 10)
    assert spans.take().seconds() == {"backward": 7, "all_reduce": 2, "optimizer": 1}


def test_a_span_within_a_span_is_the_outer_ones():
    clock = LateClock()
    spans = Spans(clock)
    with spans("log"), spans("gather"):
        pass
    clock.run(0, 1, 4)
    assert spans.take().seconds() == {"log": 4}


def test_on_a_cpu_waits_are_waits():
    spans = Spans(HostClock())
    begun = time.perf_counter()
    with spans("keys"):
        time.sleep(0.02)
    with pytest.raises(KeyError) as caught, spans("loss"), spans("gather"):
        raise KeyError
    assert caught.value.__notes__ == ["in the phase loss of a step"]
    ended = time.perf_counter()
    times = spans.take()
    assert times.seconds()["keys"] >= 0.02
    assert set(times.seconds()) == {"keys", "loss"}
    assert sum(times.seconds().values()) <= times.host_seconds <= ended - begun
    assert times.data_wait(host_wait=3) == 3


def test_profiler_sees_the_names_while_it_runs():
    with annotate("before"):
        pass
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    with profiler, annotate("outer"), annotate("inner"):
        torch.ones(1)
    names = [event.name for event in profiler.events() or ()]
    assert "outer" in names
    assert "inner" in names
    assert "before" not in names

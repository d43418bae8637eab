"""Scaling from one process to two: the model by hand, the counter on each collective, a small run of the whole."""

import json
from dataclasses import asdict
from typing import Any

import pytest
import torch
import torch.distributed as dist

from modist_fast.host.distributed import join_world
from modist_fast.host.torch_names import all_gather_single
from modist_profiling.scaling.bench import Constants, Options, ScalingRow, add_model, measure, ratios_of
from modist_profiling.scaling.link import CollectiveCounter, Message
from modist_profiling.scaling.sent_bytes import Sent, minimum_bytes
from modist_profiling.scaling.throughput_model import Link, ParallelStep, parallel_step, ring_bytes
from modist_profiling.scaling.worker import config_of

pytestmark = pytest.mark.slow

LINK = Link(bytes_per_s=1e9, latency=0.002)


def test_a_parallel_step_by_hand():
    step = parallel_step(
        0.5, 4, key_bytes=1e6, gradient_bytes=80e6, gather=LINK, reduce=Link(2e9, 0.001), small_messages=2, buckets=3
    )
    # Keys go to three others; a ring sends each of four parts of the gradients three times, twice over.
    assert step.gather == pytest.approx(3e6 / 1e9 + 3 * 0.002)
    assert step.reduce == pytest.approx(6 * 20e6 / 2e9 + 3 * 0.001)
    assert step.seconds == pytest.approx(0.5 + 0.009 + 0.063)
    assert ring_bytes(100, 2) == 100
    assert parallel_step(0.5, 1, key_bytes=1e6, gradient_bytes=8e7, gather=LINK, reduce=LINK) == ParallelStep(0.5, 0, 0)


def rows() -> list[ScalingRow]:
    """Two turns; the second was disturbed throughout and took twice as long."""
    sizes = {"one process": (1, 8), "two apart": (2, 16), "strong": (2, 8), "weak": (2, 16)}
    one, apart, strong, weak = (
        ScalingRow("", name, num_processes=n, batch=b, alone=8) for name, (n, b) in sizes.items()
    )
    for factor in (1.0, 2.0):
        for row, seconds in ((one, 1.0), (apart, 1.25), (strong, 0.8), (weak, 1.6)):
            phases = {"momentum": 0.05 * factor, "optimizer": 0.15 * factor}
            row.baseline = one.times
            row.add({"time": seconds * factor, "cpu_time": seconds, "phases": phases})
    return [one, apart, strong, weak]


def test_model_and_ratios_by_hand():
    found = rows()
    turns = add_model(found, [LINK, Link(0.5e9, 0.004)], Options(preset="demo", batch=8))
    assert asdict(turns[0]) == {**asdict(Constants(0.2, 0.1, 1.25, LINK)), "per_step": pytest.approx(0.2)}
    minimum = minimum_bytes(config_of("demo", batch=8, group=4), 2)
    messages = (minimum["gradients"] + minimum["keys"]) / 1e9 + 3 * 0.002  # one bucket, keys, video ids
    _, apart, strong, weak = found
    assert apart.models[0].seconds == pytest.approx(apart.times[0])
    assert strong.models[0].seconds == pytest.approx(1.25 * (0.2 + 4 * 0.1) + messages)
    more_keys = minimum["keys"] / 1e9  # eight samples of a process, not four
    assert weak.models[0].seconds == pytest.approx(1.25 + messages + more_keys)
    assert strong.models[1].seconds == pytest.approx(2 * strong.models[0].seconds)
    sent = [
        Sent("a", {"gradients": 101.0}, {"gradients": 100}, 103),
        Sent("b", {"gradients": 8.0}, {"gradients": 8}, 8),
    ]
    ratios = ratios_of(found, sent)
    assert ratios == {
        "comm_bytes_vs_minimum": 1.01,
        "socket_bytes_vs_minimum": 1.03,
        "strong_scaling_efficiency_2": pytest.approx(1.0 / 0.8 / 2),
        "weak_scaling_efficiency_2": pytest.approx(1.0 / 1.6),
        "machine_efficiency_2": pytest.approx(0.8),
        "strong_scaling_cpu_efficiency_2": pytest.approx(1.0 / 1.6),
        "weak_scaling_cpu_efficiency_2": pytest.approx(1.0 / 1.6),
        "model_error": pytest.approx(max(abs(strong.error), abs(weak.error))),
    }
    assert weak.error == pytest.approx((1.25 + messages + more_keys) / 1.6 - 1)


def test_least_bytes_of_the_papers_model():
    """R3D-50 with its motion pathway and two heads, from the shapes of its layers."""
    least = minimum_bytes(config_of("modist-r50"), 8)
    assert least["gradients"] / 4 == pytest.approx(37.3e6, rel=0.01)  # docs/throughput-model.md
    assert least["keys"] == 2 * 8 * 128 * 4
    assert least["video ids"] == 64 * 4
    assert minimum_bytes(config_of("rgb-only-r50"), 8)["keys"] == 8 * 128 * 4


def test_each_collective_is_counted_by_what_it_gives():
    phases = iter(["a", "a", "b", "c", "d"])
    with join_world("cpu"), CollectiveCounter(lambda: next(phases)) as counter:
        dist.all_reduce(torch.zeros(10))
        dist.all_reduce(torch.zeros(3))
        dist.broadcast(torch.zeros(7, dtype=torch.int64), 0)
        all_gather_single(torch.zeros(5, dtype=torch.bfloat16), torch.zeros(5, dtype=torch.bfloat16))
        dist.all_gather([torch.zeros(4, dtype=torch.int32)], torch.zeros(4, dtype=torch.int32))
        dist.barrier()
    assert counter.num_bytes == {
        Message("a", "allreduce_", "float32"): 52,
        Message("b", "broadcast_", "int64"): 56,
        Message("c", "_allgather_base_", "bfloat16"): 10,
        Message("d", "allgather_", "int32"): 16,
    }
    assert counter.calls[Message("a", "allreduce_", "float32")] == 2


@pytest.mark.long
def test_the_whole_in_small():
    options = Options(preset="demo", batch=4, crop=32, bank=64, rounds=2, counted=("demo",))
    found, links, sent = measure(options)
    add_model(found, links, options)
    assert [(row.num_processes, row.batch, len(row.times)) for row in found] == [
        (1, 4, 2),
        (2, 8, 2),
        (2, 4, 2),
        (2, 8, 2),
    ]
    assert min(row.phase("backward") for row in (found[0], *found[2:])) > 0
    for one in sent:
        counted: dict[str, Any] = dict(one.counted)
        assert counted.pop("other") < 1000
        assert counted == one.minimum
        assert one.ratio <= 1.02
        assert 1 <= one.sockets_ratio <= 1.02
    json.dumps([vars(one) for one in sent])

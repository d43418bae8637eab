"""The guard finds planted faults, and finds none in the kernels; bytes moved against compulsory."""

import pytest
import torch
import triton
import triton.language as tl
from oracles import make_case

from modist_kernels import flow_edges, queue_infonce
from modist_kernels.configurations import EdgesConfiguration
from modist_kernels.flow_edges.kernels import forward
from modist_profiling.kernels.interpreter_guard import watch
from modist_profiling.kernels.traffic import edges_compulsory_bytes, loss_compulsory_bytes


@triton.jit
def copy_kernel(source, target, num, BLOCK: tl.constexpr, SHIFT: tl.constexpr, STEP: tl.constexpr):
    at = tl.program_id(0) * STEP + tl.arange(0, BLOCK)
    value = tl.load(source + at + SHIFT, mask=at < num, other=0)
    tl.store(target + at, value, mask=at < num)


def run_copy(shift: int = 0, step: int = 16, num_stored: int = 40) -> torch.Tensor:
    source, target = torch.arange(40.0), torch.zeros(40)
    constants = {"BLOCK": 16, "SHIFT": shift, "STEP": step}
    copy_kernel[(3,)](source, target, num_stored, **constants)  # pyright: ignore[reportArgumentType]
    return target


def test_a_faultless_kernel_passes_and_is_counted() -> None:
    with watch() as seen:
        target = run_copy()
    assert target.tolist() == list(range(40))
    arguments = seen.launches[0].arguments
    assert (arguments["source"].bytes_read, arguments["source"].bytes_written) == (160, 0)
    assert (arguments["target"].bytes_read, arguments["target"].bytes_written) == (0, 160)
    assert arguments["target"].num_unwritten == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"shift": 1}, "load out of bounds of source"),
        ({"shift": -1}, "load out of bounds of source"),
        ({"num_stored": 41}, "out of bounds of"),
        ({"step": 12}, "programs 0 and 1 both store to target"),
        ({"shift": 1 << 30}, "far from every argument"),
    ],
)
def test_planted_faults_are_found(fault: dict, message: str) -> None:
    with watch(), pytest.raises(Exception, match=message):
        run_copy(**fault)


def test_what_nobody_stores_is_found() -> None:
    with watch() as seen:
        run_copy(num_stored=39)
    assert seen.launches[0].arguments["target"].num_unwritten == 4


OUTPUTS = {
    "partial_kernel": ("maxima", "sums", "weighted"),
    "combine_kernel": ("losses", "top1", "positives", "lses", "mean_negative"),
    "backward_kernel": ("grad_queries",),
    "edges_kernel": ("edges", "strip_sums"),
}


def check_launches(seen, *kernels: str) -> None:
    """These ran, and every byte of their outputs was stored (the guard saw to it that one program did)."""
    assert [launch.kernel for launch in seen.launches] == list(kernels)
    for launch in seen.launches:
        for name in OUTPUTS[launch.kernel]:
            assert launch.arguments[name].num_unwritten == 0, (launch.kernel, name)


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 1, "num": 1},
        {"batch": 33, "num": 257, "dim": 64},
        {"batch": 33, "num": 129, "cross_negatives": "other", "kind": "part-filled"},
        {"batch": 3, "num": 130, "dim": 256, "modalities": 1},
    ],
)
def test_the_loss_stays_in_bounds_and_has_one_writer(options: dict) -> None:
    case = make_case(**options)
    queries = case.queries.requires_grad_()
    with watch() as seen:
        queue_infonce(*case.arguments, **case.options, backend="triton").losses.sum().backward()
    assert queries.grad is not None
    check_launches(seen, "partial_kernel", "combine_kernel", "backward_kernel")
    assert "bank" not in seen.launches[2].arguments


@pytest.mark.parametrize(
    ("size", "layout"), [((1, 1), "chw"), ((70, 37), "hwc"), ((20, 256), "chw"), ((9, 300), "hwc")]
)
@pytest.mark.parametrize("border", ["replicate", "zero"])
def test_edges_stay_in_bounds_and_have_one_writer(size, layout, border) -> None:
    flow = torch.randn(2, 2, *size)
    flow = flow.movedim(1, -1).contiguous() if layout == "hwc" else flow
    with watch() as seen:
        flow_edges(flow, layout=layout, border=border, backend="triton")
    check_launches(seen, "edges_kernel")


def test_each_bank_is_read_once_whatever_the_negatives() -> None:
    for cross_negatives in ("own", "other"):
        case = make_case(batch=32, num=1024, cross_negatives=cross_negatives)
        with watch() as seen:
            queue_infonce(*case.arguments, **case.options, backend="triton")
        assert seen.bytes_read("bank") == case.bank.numel() * 2


def test_traffic_of_the_loss_grows_by_the_bank_alone() -> None:
    """Bytes at B = 32, C = 128 are bank and ids, plus a part that the number of splits sets, not N."""
    with watch() as seen:
        case = make_case(batch=32, num=128 * 88)
        queue_infonce(case.queries.requires_grad_(), *case.arguments[1:], backend="triton").losses.sum().backward()
    size = {"modalities": 2, "batch": 32, "dim": 128}
    beside_the_bank = seen.bytes_moved - 2 * 128 * 88 * (128 * 2 + 4)  # each program reads the ids of its tiles
    at_full_size = 2 * 65536 * (128 * 2 + 4) + beside_the_bank
    assert at_full_size <= 1.15 * loss_compulsory_bytes(num=65536, **size)


def test_traffic_of_edges() -> None:
    flow = torch.randn(1, 2, 224, 224).half()
    with watch() as seen:  # the configuration of many frames
        forward(flow, "chw", 1.0, "replicate", 10.0, 1.0, torch.uint8, EdgesConfiguration(56, 1))
    assert seen.bytes_moved <= 1.04 * edges_compulsory_bytes(1, 224, 224, 2, 1)

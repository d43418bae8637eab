"""What the Triton kernels of queue_infonce must do; run in the interpreter (test_interpreted.py) and on a GPU."""

import pytest
import torch
from oracles import Case, make_case, plain_gradient

from modist_kernels import queue_infonce, queue_infonce_reference

INTERPRETED = not torch.cuda.is_available()
DEVICE = "cpu" if INTERPRETED else "cuda"


def gradients(case: Case, backend: str = "triton"):
    """Result, gradient and the weights of the losses in it."""
    queries = case.queries.clone().requires_grad_()
    result = queue_infonce(queries, *case.arguments[1:], **case.options, backend=backend)
    weights = torch.linspace(0.5, 1.5, result.losses.numel(), device=DEVICE).reshape(result.losses.shape)
    (result.losses * weights).sum().backward()
    assert queries.grad is not None
    return result, queries.grad, weights


def exact(case: Case, weights: torch.Tensor):
    queries = case.queries.double().requires_grad_()
    result = queue_infonce_reference(queries, *case.arguments[1:], **case.options)
    (result.losses * weights).sum().backward()
    assert queries.grad is not None
    return result, queries.grad


CASES = [
    {"batch": 1, "num": 1},
    {"batch": 2, "num": 3, "modalities": 1, "cross_negatives": "other"},
    {"batch": 5, "num": 129, "dim": 64, "cross_negatives": "other"},
    {"batch": 16, "num": 127, "dim": 256, "dtype": torch.float16},
    {"batch": 17, "num": 1000, "dim": 256, "cross_negatives": "other", "temperature": 0.07},
    {"batch": 33, "num": 2048, "dim": 64, "kind": "hard"},
    {"batch": 9, "num": 700, "kind": "hard", "temperature": 1.0, "cross_negatives": "other"},
    {"batch": 9, "num": 700, "kind": "hard", "temperature": 0.01},
    {"batch": 130, "num": 130, "modalities": 1},
    {"batch": 34, "num": 65, "cross_negatives": "other"},  # 68 rows: a tile and a bit
    {"batch": 3, "num": 600, "kind": "part-filled", "cross_negatives": "other"},
    {"batch": 3, "num": 300, "kind": "masked"},
    {"batch": 3, "num": 300, "kind": "row-masked", "cross_negatives": "other"},
    {"batch": 4, "num": 260, "kind": "large"},
    {"batch": 4, "num": 260, "kind": "large", "temperature": 0.05, "dtype": torch.bfloat16},
]


@pytest.mark.parametrize("options", CASES, ids=lambda o: "-".join(map(str, o.values())))
def test_kernel_equals_the_definition(options: dict) -> None:
    case = make_case(**options).to(DEVICE)
    result, gradient, weights = gradients(case)
    expected, expected_gradient = exact(case, weights)
    # Weights are rounded to fp16, which moves their sum by 2^-12 at most.
    torch.testing.assert_close(result.losses.double(), expected.losses, rtol=1e-6, atol=2**-12)
    torch.testing.assert_close(result.lse.double(), expected.lse, rtol=1e-6, atol=2**-12)
    torch.testing.assert_close(result.positive.double(), expected.positive, rtol=1e-6, atol=2e-6)
    # A positive within rounding of the hardest negative may fall on either side.
    assert (result.top1.double() != expected.top1).float().mean() <= 0.01

    error = (gradient.double() - expected_gradient).abs().max()
    scale = expected_gradient.abs().max()
    if options.get("kind") == "masked":
        assert scale == 0
        assert error == 0
        return
    plain = (plain_gradient(case, weights, torch.float16) - expected_gradient).abs().max()
    rounding = torch.finfo(case.queries.dtype).eps * scale  # of the gradient itself, in the queries' type
    assert error <= 2 * plain + rounding + 1e-6 * scale
    if case.queries.dtype == torch.float32 and options.get("kind") != "large":
        assert error <= 1e-4 * scale


def test_a_query_without_negatives_has_no_loss_and_no_gradient() -> None:
    case = make_case(batch=4, num=200, kind="row-masked", cross_negatives="other").to(DEVICE)
    result, gradient, _ = gradients(case)
    assert (result.losses[:, 0] == 0).all()
    assert torch.isneginf(result.lse[:, 0]).all()
    assert (result.top1[:, 0] == 1).all()
    assert (gradient[:, 0] == 0).all()
    assert (gradient[:, 1:] != 0).any()


def test_two_runs_give_identical_bits() -> None:
    case = make_case(batch=6, num=700, kind="hard", cross_negatives="other").to(DEVICE)
    (first, first_gradient, _), (second, second_gradient, _) = gradients(case), gradients(case)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(first_gradient, second_gradient)


def test_backward_does_not_read_the_bank() -> None:
    case = make_case(batch=3, num=200).to(DEVICE)
    expected = gradients(case)[1]
    bank, queries = case.bank.clone(), case.queries.clone().requires_grad_()
    result = queue_infonce(queries, case.keys, bank, case.bank_ids, case.ids, **case.options, backend="triton")
    bank.fill_(torch.nan)
    weights = torch.linspace(0.5, 1.5, result.losses.numel(), device=DEVICE).reshape(result.losses.shape)
    (result.losses * weights).sum().backward()
    assert queries.grad is not None
    assert torch.equal(queries.grad, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 96}, "C must be one of"),
        ({"bank": torch.float32}, "bank must be float16"),
        ({"strided": True}, "bank must be contiguous"),
        ({"dtype": torch.float64}, "queries must be float16"),
    ],
)
def test_what_the_kernel_cannot_take_is_said(change: dict, message: str) -> None:
    case = make_case(dim=change.get("dim", 128), dtype=change.get("dtype", torch.float32)).to(DEVICE)
    bank = case.bank.to(change.get("bank", torch.float16))
    if "strided" in change:
        bank = bank.transpose(1, 2).contiguous().transpose(1, 2)
    with pytest.raises(ValueError, match=message):
        queue_infonce(case.queries, case.keys, bank, case.bank_ids, case.ids, backend="triton")

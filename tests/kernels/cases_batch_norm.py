"""What the Triton kernels of batch_norm must do; run in the interpreter (test_interpreted.py) and on a GPU."""

from typing import Any

import pytest
import torch

from modist_kernels import batch_norm, batch_norm_reference

INTERPRETED = not torch.cuda.is_available()
DEVICE = "cpu" if INTERPRETED else "cuda"
NAMES = ("x", "weight", "bias", "residual")

CASES = [
    {"shape": (6, 8, 3, 5)},
    {"shape": (6, 8, 3, 5), "groups": 3, "relu": True},
    {"shape": (4, 24, 7, 7), "groups": 2, "relu": True, "residual": True},
    {"shape": (4, 136, 6, 6), "groups": 2, "residual": True},
    {"shape": (8, 256, 3, 3), "groups": 4, "relu": True, "residual": True, "dtype": torch.bfloat16},
    {"shape": (2, 8, 40, 40), "relu": True, "dtype": torch.bfloat16},  # several splits of one group
    {"shape": (2, 64, 24, 24), "groups": 2, "relu": True, "residual": True, "dtype": torch.float16},
    {"shape": (12, 40), "groups": 3, "relu": True},
    {"shape": (3, 16, 9, 9), "far": 300.0},  # a mean far from zero: squares would cancel
]


def make(shape, dtype=torch.float32, residual=False, far=0.0, **_):
    """Inputs by name, the running statistics, and the gradient of the output; the channels are of different scale."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size):
        return torch.randn(size, generator=generator)

    channels, inner = shape[1], (1, -1) + (1,) * (len(shape) - 2)
    scale = torch.linspace(0.3, 3.0, channels).view(inner)
    inputs = {"x": draw(*shape) * scale + draw(channels).view(inner) + far}
    inputs |= {"weight": draw(channels), "bias": draw(channels)}
    if residual:
        inputs["residual"] = draw(*shape)
    for name in ("x", "residual"):
        if name in inputs:
            layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
            inputs[name] = inputs[name].to(dtype).contiguous(memory_format=layout)
    running = (draw(channels), torch.rand(channels, generator=generator))
    everything = [tensor.to(DEVICE) for tensor in (*inputs.values(), *running, draw(*shape).to(dtype))]
    return dict(zip(inputs, everything, strict=False)), everything[len(inputs) : -1], everything[-1]


def run(function, inputs, running, grad, groups=1, relu=False, **options) -> dict[str, Any]:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    mean, var = (tensor.clone() for tensor in running)
    residual = leaves.get("residual")
    affine = (leaves["x"], leaves["weight"], leaves["bias"])
    y = function(*affine, mean, var, groups=groups, relu=relu, residual=residual, **options)
    y.backward(grad.to(y.dtype))
    return {"y": y.detach(), "running_mean": mean, "running_var": var} | {
        f"grad_{name}": leaf.grad for name, leaf in leaves.items()
    }


@pytest.mark.parametrize("backend", ["triton", "reference"])  # the latter is torch's own, group by group
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c.values())))
def test_kernel_equals_the_definition(case: dict, backend: str) -> None:
    if backend == "reference" and "dtype" in case:
        pytest.skip("rounds before the addition as well, so its ReLU cuts elsewhere")
    inputs, running, grad = make(**case)
    options = {key: case[key] for key in ("groups", "relu") if key in case}
    found = run(batch_norm, inputs, running, grad, **options, backend=backend)
    in_float64 = ({name: t.double() for name, t in inputs.items()}, [t.double() for t in running], grad.double())
    expected = run(batch_norm_reference, *in_float64, **options)
    dtype = case.get("dtype", torch.float32)
    assert found["y"].dtype == found["grad_x"].dtype == dtype
    # Where y lies within rounding of 0, a ReLU may cut on either side.
    clear = expected["y"].abs() > 1e-5 if case.get("relu") else torch.ones_like(expected["y"], dtype=torch.bool)
    clear |= expected["y"] == 0
    for name, value in found.items():
        want, got = expected[name], value.double()
        bound = 2 * torch.finfo(dtype if name[5:] in ("x", "residual") or name == "y" else torch.float32).eps
        bound = (bound + (3e-4 if case.get("far") else 1e-5)) * float(want.abs().max())
        wrong = (got - want).abs() > bound
        if name in ("grad_x", "grad_residual", "y"):
            wrong &= clear
        assert not wrong.any(), f"{name}: off by {float((got - want).abs().max()):.1e}, allowed {bound:.1e}"


def test_tickets_are_left_as_they_were_and_two_runs_give_identical_bits() -> None:
    inputs, running, grad = make((4, 24, 20, 20), residual=True)
    tickets = torch.zeros(64, dtype=torch.int32, device=DEVICE)
    options = {"groups": 2, "relu": True, "backend": "triton", "tickets": tickets}
    first, second = (run(batch_norm, inputs, running, grad, **options) for _ in range(2))
    assert not tickets.any()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_groups_are_normalized_apart() -> None:
    """Planted: one group for all is another function, by far more than rounding."""
    inputs, running, grad = make((6, 8, 3, 5))
    apart, together = (run(batch_norm, inputs, running, grad, groups=g, backend="triton") for g in (3, 1))
    assert (apart["y"] - together["y"]).abs().max() > 0.1


def test_too_few_tickets_are_said() -> None:
    inputs, running, grad = make((6, 8, 3, 5))
    with pytest.raises(ValueError, match="3 groups of 8 channels need 3 tickets"):
        run(batch_norm, inputs, running, grad, groups=3, backend="triton", tickets=torch.zeros(1, dtype=torch.int32))

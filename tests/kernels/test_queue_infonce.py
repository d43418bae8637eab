"""queue_infonce: its definition against Eq. 1 to 3 as loops, its CPU path against the definition, its op."""

import logging

import pytest
import torch
from oracles import Case, loop_oracle, make_case, plain_gradient

from modist_kernels import dispatch, queue_infonce, queue_infonce_reference
from modist_kernels.queue_infonce import cpu as cpu_path

BACKENDS = ("reference", "cpu")


def gradients(case: Case, backend: str):
    queries = case.queries.clone().requires_grad_()
    result = queue_infonce(queries, *case.arguments[1:], **case.options, backend=backend)
    weights = torch.linspace(0.5, 1.5, result.losses.numel()).reshape(result.losses.shape)
    (result.losses * weights).sum().backward()
    assert queries.grad is not None
    return result, queries.grad, weights


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {"modalities": 1, "batch": 1, "num": 1},
        {"batch": 3, "num": 9, "cross_negatives": "own"},
        {"batch": 4, "num": 23, "cross_negatives": "other", "dim": 24},
        {"batch": 3, "num": 20, "cross_negatives": "other", "kind": "part-filled"},
        {"batch": 3, "num": 20, "kind": "masked"},
        {"batch": 3, "num": 20, "kind": "row-masked", "temperature": 1.0},
        {"batch": 3, "num": 20, "kind": "large", "temperature": 0.01},
        {"batch": 3, "num": 20, "kind": "hard", "dtype": torch.float64},
    ],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_equals_the_equations(options: dict, backend: str) -> None:
    case = make_case(**options)
    result, gradient, weights = gradients(case, backend)
    expected, expected_gradient = loop_oracle(case, weights)
    precision = 1e-12 if options.get("dtype") == torch.float64 else 3e-6
    for name, value in expected.items():
        torch.testing.assert_close(getattr(result, name).double(), value, rtol=precision, atol=precision)
    scale = expected_gradient.abs().max()
    assert (gradient.double() - expected_gradient).abs().max() <= precision * 4 * scale


@pytest.mark.parametrize("cross_negatives", ["own", "other"])
@pytest.mark.parametrize("kind", ["random", "part-filled", "hard", "row-masked"])
def test_chunks_of_the_cpu_path_change_nothing(kind: str, cross_negatives: str, monkeypatch) -> None:
    """Chunks of 7 over 61 slots: partial last chunk, chunks without any occupied slot, own videos in any of them."""
    monkeypatch.setattr(cpu_path, "CHUNK", 7)
    case = make_case(batch=5, num=61, kind=kind, cross_negatives=cross_negatives)
    case.bank_ids[14:28] = -1
    _, gradient, weights = gradients(case, "cpu")
    expected = gradients(case, "reference")[1]
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=2e-6)
    assert weights.shape == (4, 5)


@pytest.mark.parametrize("half_products", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["random", "hard", "part-filled"])
def test_half_queries(kind: str, dtype: torch.dtype, half_products: bool, monkeypatch) -> None:
    """No worse than twice plain torch with products in the type of the queries, whatever the CPU has."""
    monkeypatch.setattr(cpu_path, "multiplies_bf16", lambda device: half_products)
    monkeypatch.setattr(cpu_path, "CHUNK", 70)
    case = make_case(batch=5, num=300, dtype=dtype, kind=kind, cross_negatives="other")
    result, gradient, weights = gradients(case, "cpu")
    exact = make_case(batch=5, num=300, dtype=torch.float64, kind=kind, cross_negatives="other")
    exact.queries, exact.keys = case.queries.double(), case.keys.double()
    expected, expected_gradient, _ = gradients(exact, "reference")
    assert gradient.dtype == dtype
    assert result.losses.dtype == torch.float32
    torch.testing.assert_close(result.losses.double(), expected.losses, rtol=0, atol=2e-2)
    plain = (plain_gradient(case, weights, dtype) - expected_gradient).abs().max()
    scale = expected_gradient.abs().max()
    error = (gradient.double() - expected_gradient).abs().max()
    assert error <= 2 * plain + torch.finfo(dtype).eps * scale
    if not half_products or dtype == torch.float16:
        assert error <= torch.finfo(dtype).eps * scale  # the rounding of the result alone


@pytest.mark.parametrize("cross_negatives", ["own", "other"])
@pytest.mark.parametrize("modalities", [1, 2])
def test_gradcheck(modalities: int, cross_negatives: str) -> None:
    case = make_case(
        modalities=modalities, batch=2, num=12, dim=5, dtype=torch.float64, cross_negatives=cross_negatives
    )

    def losses(queries: torch.Tensor) -> torch.Tensor:
        return queue_infonce(queries, *case.arguments[1:], **case.options, backend="cpu").losses

    assert torch.autograd.gradcheck(losses, case.queries.requires_grad_())


def test_backward_does_not_read_the_bank() -> None:
    case = make_case(batch=3, num=200)
    expected = gradients(case, "cpu")[1]
    queries, bank = case.queries.clone().requires_grad_(), case.bank.clone()
    result = queue_infonce(queries, case.keys, bank, case.bank_ids, case.ids, **case.options)
    bank.fill_(torch.nan)
    weights = torch.linspace(0.5, 1.5, result.losses.numel()).reshape(result.losses.shape)
    (result.losses * weights).sum().backward()
    assert queries.grad is not None
    assert torch.equal(queries.grad, expected)


def test_only_the_losses_carry_a_gradient() -> None:
    case = make_case()
    result = queue_infonce(case.queries.requires_grad_(), case.keys.requires_grad_(), *case.arguments[2:])
    assert result.losses.requires_grad
    assert not any(x.requires_grad for x in result[1:])
    result.losses.sum().backward()
    assert case.keys.grad is None


@pytest.mark.parametrize(("modalities", "cross_negatives"), [(1, "own"), (2, "own"), (2, "other")])
def test_custom_ops_are_well_formed(modalities: int, cross_negatives: str) -> None:
    case = make_case(modalities=modalities, batch=3, num=20, dim=8)
    arguments = (case.queries.requires_grad_(), *case.arguments[1:], 0.1, cross_negatives, "cpu")
    torch.library.opcheck(torch.ops.modist.queue_infonce.default, arguments)
    losses, _, positive, lse, mean = torch.ops.modist.queue_infonce(*arguments)
    backward = (torch.ones_like(losses), lse, positive, case.keys, mean, 0.1, cross_negatives, "cpu", torch.float32)
    torch.library.opcheck(
        torch.ops.modist.queue_infonce_backward.default,
        tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in backward),
    )


def test_compiles_into_one_graph() -> None:
    case = make_case(batch=4, num=50)

    def objective(queries: torch.Tensor) -> torch.Tensor:
        normal = torch.nn.functional.normalize(queries, dim=-1)
        return queue_infonce(normal, *case.arguments[1:], **case.options).losses.mean(1).sum()

    plain, compiled = case.queries.clone().requires_grad_(), case.queries.clone().requires_grad_()
    torch.compile(objective, fullgraph=True, backend="aot_eager")(compiled).backward()
    objective(plain).backward()
    assert plain.grad is not None
    assert compiled.grad is not None
    torch.testing.assert_close(compiled.grad, plain.grad)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("queries", torch.zeros(3, 5, 128), "M 1 or 2"),
        ("keys", torch.zeros(2, 4, 128), "keys .* must have the shape"),
        ("bank", torch.zeros(2, 10, 64, dtype=torch.float16), "bank .* must be"),
        ("bank_ids", torch.zeros(7, dtype=torch.int32), "bank_ids .* must be"),
        ("bank_ids", torch.zeros(100, dtype=torch.int64), "bank_ids must be int32"),
        ("ids", torch.zeros(4, dtype=torch.int32), "ids .* must be"),
        ("bank", torch.zeros(2, 100, 128, dtype=torch.int32), "bank must be floating point"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_tensors_are_named(name: str, value: torch.Tensor, message: str, backend: str) -> None:
    case = make_case()
    setattr(case, name, value)
    with pytest.raises(ValueError, match=message):
        queue_infonce(*case.arguments, backend=backend)


def test_bad_options_are_named() -> None:
    case = make_case()
    with pytest.raises(ValueError, match="temperature must be positive"):
        queue_infonce(*case.arguments, temperature=0.0)
    with pytest.raises(ValueError, match="cross_negatives must be"):
        queue_infonce(*case.arguments, cross_negatives="both")  # pyright: ignore[reportArgumentType]


def test_backend_is_chosen_forced_and_said_once(monkeypatch, caplog) -> None:
    case = make_case()
    monkeypatch.setattr(dispatch, "_said", set())
    with caplog.at_level(logging.INFO, "modist"):
        queue_infonce(*case.arguments)
        queue_infonce(*case.arguments)
        monkeypatch.setenv("MODIST_KERNELS_BACKEND", "reference")
        queue_infonce(*case.arguments)
    assert caplog.messages == [
        "queue_infonce: cpu backend on cpu (default)",
        "queue_infonce: reference backend on cpu (forced)",
    ]
    monkeypatch.setenv("MODIST_KERNELS_BACKEND", "cuda")
    with pytest.raises(ValueError, match="MODIST_KERNELS_BACKEND=cuda is none of triton, cpu, reference"):
        queue_infonce(*case.arguments)
    monkeypatch.delenv("MODIST_KERNELS_BACKEND")
    with pytest.raises(ValueError, match="needs CUDA tensors"):
        queue_infonce(*case.arguments, backend="triton")
    with pytest.raises(ValueError, match="kernels for CUDA and CPU tensors"):
        dispatch.choose_backend("queue_infonce", torch.device("meta"), None)
    assert dispatch.choose_backend("queue_infonce", torch.device("cuda"), None) == "triton"
    with pytest.raises(ValueError, match="CPU tensors only"):
        dispatch.choose_backend("queue_infonce", torch.device("cuda"), "cpu")


def test_reference_is_the_definition_at_every_precision() -> None:
    """The reference in float32 against itself in float64, at 2000 negatives."""
    case = make_case(batch=8, num=2000, kind="hard")
    single = queue_infonce_reference(*case.arguments)
    double = queue_infonce_reference(case.queries.double(), *case.arguments[1:])
    torch.testing.assert_close(single.losses.double(), double.losses, rtol=1e-6, atol=1e-5)

"""What --tf32 and --deterministic set, for how long, and what they say."""

import os

import pytest
import torch

from modist_fast.host.arithmetic import Arithmetic, arithmetic_of, computing
from modist_fast.host.distributed import join_world
from modist_fast.presets import find_preset


def switches() -> tuple[object, ...]:
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # pyright: ignore[reportAttributeAccessIssue]
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("deterministic", [True, False])
def test_switches_are_set_together_and_put_back_after_an_error(tf32, deterministic):
    before = switches()
    inside: list[object] = []

    def fail() -> None:
        with computing(Arithmetic(tf32, deterministic)):
            inside.extend(switches())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert tuple(inside[:3]) == (tf32, tf32, deterministic)
    assert inside[5] == (":4096:8" if deterministic else before[5])
    assert switches() == before


def test_a_workspace_that_the_user_chose_stays(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with computing(Arithmetic(deterministic=True)):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_what_torch_cannot_do_twice_alike_is_refused(tmp_path):
    def put() -> None:
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))

    config = find_preset("demo")(tmp_path, tmp_path / "run")
    put()
    how = Arithmetic(config.tf32, deterministic=True)
    with join_world("cpu", arithmetic=how), pytest.raises(RuntimeError, match="put_ does not have a deterministic"):
        put()
    put()


def test_commands_that_train_nothing_have_float32_in_full(tmp_path):
    assert arithmetic_of(object()) == Arithmetic(tf32=False)
    assert arithmetic_of(find_preset("demo")(tmp_path, tmp_path)) == Arithmetic(tf32=True)
    with join_world("cpu"):
        assert switches()[:3] == (False, False, False)


def test_what_a_gpu_does_is_said():
    gpu = torch.device("cuda", 0)
    assert Arithmetic().words(gpu) == "float32 products in TF32 (--no-tf32: in full); not the same bits twice"
    assert "in full; the same bits every time" in Arithmetic(tf32=False, deterministic=True).words(gpu)
    assert Arithmetic().words(torch.device("cpu")) == "the same bits every time"

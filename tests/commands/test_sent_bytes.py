"""What two real processes send in a real run: counted, read from their sockets, and computed from shapes."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from modist_fast.pathways import MoDist
from modist_fast.presets import PRESETS
from modist_fast.watch.run_log import read_metrics
from modist_profiling.scaling.sent_bytes import Sent, by_purpose, minimum_bytes, sent_of
from modist_profiling.scaling.worker import config_of
from tests.commands.launching import run_words

pytestmark = pytest.mark.slow

COUNTED = Path(__file__).with_name("counted.py")
STEPS = 6


def sent_by(folder: Path, store: Path, extra: int = 0, more: Sequence[object] = ()) -> list[dict[str, Any]]:
    """Each rank's account of a run of the demo preset on small crops: two groups a process, one checkpoint."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    small = ["--preset", "demo", "--clips.crop-size", 32, "--batch-size", 16, "--group-size", 4]
    small += ["--objective.bank-size", 64, "--max-steps", STEPS, "--checkpoint.every", 1000]
    counted = map(str, [COUNTED, folder / "count.json", extra, *small, *more, "--store", store, "--out", folder])
    done = run_words([*launcher, *counted])
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"count.{rank}.json").read_text()) for rank in range(2)]


def oracle(batch: int) -> dict[str, int]:
    """By hand, from the nets as they are built for training, not on the meta device."""
    config = PRESETS["demo"](None, Path())
    model = MoDist(config.model, config.objective)
    return {
        "gradients": sum(weight.grad.nbytes for weight in _with_gradients(model)),
        "keys": batch // 2 * torch.zeros(2, config.model.embedding_dim).nbytes,
        "video ids": torch.zeros(batch, dtype=torch.int32).nbytes,
    }


def _with_gradients(model: MoDist) -> list[Any]:
    queries = model.online(torch.rand(2, 3, 8, 32, 32), torch.rand(2, 1, 16, 32, 32))
    queries.sum().backward()
    return [weight for weight in model.parameters() if weight.grad is not None]


@pytest.fixture(scope="module")
def plain(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run and its ranks' accounts."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    return folder, sent_by(folder, demo_store, more=("--precision", "fp32"))


def test_a_run_sends_gradients_keys_and_ids(plain: tuple[Path, list[dict[str, Any]]]) -> None:
    minimum = oracle(16)
    assert minimum == minimum_bytes(config_of("demo", batch=16, group=4), 2)
    for account in plain[1]:
        assert account["steps"] == STEPS
        training = [kind for kind in account["messages"] if kind["phase"] != "checkpoint"]
        counted = by_purpose(training, STEPS)
        other = counted.pop("other")
        assert counted == minimum
        assert other < 0.001 * minimum["gradients"]
        # The kernel's count, which knows nothing of torch, leaves no room for messages that bypass the counter. A
        # checkpoint's statistics are in it; a ring of two sends what is reduced once.
        payload = sum(kind["bytes"] for kind in account["messages"])
        assert payload <= account["sockets"] <= 1.01 * payload
        assert account["sockets"] / STEPS < 1.02 * sum(minimum.values())


def test_gradients_in_bfloat16_are_half_the_bytes_and_other_sums(
    plain: tuple[Path, list[dict[str, Any]]], demo_store: Path, tmp_path: Path
) -> None:
    """On the sockets, by the kernel's count. The run is the same but for the rounding of its gradients."""
    rounded = tmp_path / "run"
    accounts = sent_by(rounded, demo_store, more=("--comm-dtype", "bfloat16", "--precision", "fp32"))
    minimum = minimum_bytes(config_of("demo", batch=16, group=4), 2)
    for whole, half in zip(plain[1], accounts, strict=True):
        saved = (whole["sockets"] - half["sockets"]) / STEPS
        assert saved == pytest.approx(minimum["gradients"] / 2, rel=0.02)
        assert by_purpose(half["messages"], STEPS)["other"] < 0.01 * minimum["gradients"]
    ours, theirs = ([row["loss"] for row in read_metrics(run / "metrics.jsonl")] for run in (rounded, plain[0]))
    assert ours[0] == theirs[0]
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.02)


@pytest.mark.long
def test_a_planted_collective_shows(demo_store: Path, tmp_path: Path) -> None:
    """3 % of the gradients more, in the middle of the step."""
    config = config_of("demo", batch=16, group=4)
    extra = int(0.03 * minimum_bytes(config, 2)["gradients"] / 4)
    for account in sent_by(tmp_path / "run", demo_store, extra):
        sent = sent_of("demo", config, 2, account)
        assert sent.counted["other"] >= 4 * extra
        assert sent.ratio > 1.02
        assert sent.sockets_ratio > 1.02


def test_messages_by_purpose() -> None:
    messages = [
        {"phase": "backward", "operation": "allreduce_", "dtype": "float32", "bytes": 4000},
        {"phase": "backward", "operation": "allreduce_", "dtype": "int32", "bytes": 40},  # a map of parameters in use
        {"phase": "gather", "operation": "_allgather_base_", "dtype": "float32", "bytes": 600},
        {"phase": "gather", "operation": "allreduce_", "dtype": "int32", "bytes": 20},
        {"phase": "queries", "operation": "broadcast_", "dtype": "float32", "bytes": 60},  # batch norm's buffers
    ]
    counted = by_purpose(messages, 2)
    assert counted == {"gradients": 2000, "keys": 300, "video ids": 10, "other": 50}
    sent = Sent("toy", counted, {"gradients": 1500, "keys": 490, "video ids": 10}, 3000)
    assert sent.ratio == pytest.approx(2360 / 2000)
    assert sent.sockets_ratio == pytest.approx(1.5)

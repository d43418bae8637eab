"""Ranks that would train apart are refused before the first step; and the words for what a network does to a run."""

import json
import sys
from pathlib import Path

import pytest

from modist_fast.config import check
from modist_fast.errors import ConfigError
from modist_fast.network import errors
from modist_fast.presets import PRESETS
from tests.commands.launching import run_words


@pytest.mark.slow
def test_ranks_that_differ_are_named_with_what_differs() -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = run_words([*words, str(Path(__file__).with_name("agreement_ranks.py"))])
    assert done.returncode == 0, done.stderr


@pytest.mark.fault
def test_a_world_that_does_not_divide_the_batch_after_a_node_has_left(tmp_path: Path) -> None:
    """Three processes take a batch of three groups, two do not: the run waits for one or three."""
    run = tmp_path / "run"
    run.mkdir()
    config = PRESETS["demo"](tmp_path, run)
    object.__setattr__(config, "batch_size", 3 * config.group_size)
    check(config, 3)
    with pytest.raises(ConfigError, match=r"multiple of \d+\. Change one of the three"):
        check(config, 2)
    (run / "environment.json").write_text(json.dumps({"processes": 3}))
    with pytest.raises(ConfigError, match=r"was on 3 before.* Nothing is lost: start it on 1 or 3 process") as caught:
        check(config, 2)
    assert "\n" not in str(caught.value)
    check(config, 1)


def test_a_run_is_told_what_it_lacks_to_survive_the_loss_of_a_node() -> None:
    node = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    assert errors.advice("no", {}) == []
    assert errors.advice("no", node | {"LOCAL_WORLD_SIZE": "4"}) == []
    (sentence,) = errors.advice("auto", node)
    assert "--max-restarts" in sentence
    again = node | {"TORCHELASTIC_MAX_RESTARTS": "3"}
    assert errors.advice("auto", again) == []
    sentences = errors.advice("no", again | {"TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert "--resume no" in sentences[0]
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in sentences[1]


def test_the_network_is_named_where_it_may_be_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = RuntimeError("[gloo] Connection closed by peer [10.0.0.2]:1. GLHF!")
    alone = str(errors.of_run(lost, 30))
    assert "lost another rank" in alone
    assert "SOCKET_IFNAME" not in alone
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME" in str(errors.of_run(lost, 30))
    assert "--collective-timeout 30" in str(errors.of_run(RuntimeError("Timed out waiting 30000ms for recv"), 30))
    assert errors.of_run(RuntimeError("a shape"), 30) is None
    met = str(errors.of_meeting(RuntimeError("Unable to find address for: eth77")))
    assert "did not meet" in met
    assert "NCCL_SOCKET_IFNAME" in met
    assert errors.of_meeting(RuntimeError("a shape")) is None

"""A new run from the backbones of another, a longer schedule, and a store that has moved."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from modist_fast.errors import ConfigError
from modist_fast.optim import learning_rate
from modist_fast.watch.run_log import read_metrics
from modist_pipelines.store.reader import Store
from tests.commands.launching import newest, run_script
from tests.commands.test_beginning import pretrain, small

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    pretrain(replace(small(demo_store, run), max_steps=2))
    return run


def first_weights(store: Path, out: Path, init_from: str | None) -> dict[str, torch.Tensor]:
    """Of a run whose rate is 0: as they were before its first step."""
    config = small(store, out)
    optim = replace(config.optim, lr=0.0, warmup_epochs=0.0, weight_decay=0.0)
    pretrain(replace(config, max_steps=1, init_from=init_from, optim=optim))
    return torch.load(newest(out), weights_only=True)["model"]


def learned(state: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """Weights alone: a step changes statistics whatever the rate."""
    return {name: value for name, value in state.items() if part in name and "running" not in name}


def test_a_run_gives_both_backbones_and_nothing_else(
    demo_store: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "modist")
    found = first_weights(demo_store, tmp_path / "new", str(finished))
    assert "the visual backbone" in caplog.text
    assert "and the motion backbone" in caplog.text
    anew = first_weights(demo_store, tmp_path / "anew", None)
    given = torch.load(newest(finished), weights_only=True)["model"]
    for part, source in (("online.visual.", given), ("online.motion.", given), ("head.", anew)):
        parts = learned(found, part)
        assert parts
        for name, tensor in parts.items():
            assert torch.equal(tensor, source[name.replace("momentum.", "online.")]), name
    assert not torch.equal(found["online.visual.stem.weight"], anew["online.visual.stem.weight"])
    for name, tensor in learned(found, "momentum.visual.").items():
        assert torch.equal(tensor, found[name.replace("momentum.", "online.")]), name


def test_a_file_gives_the_visual_backbone(
    demo_store: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "modist")
    found = first_weights(demo_store, tmp_path / "new", str(finished / "backbone.safetensors"))
    given = torch.load(newest(finished), weights_only=True)["model"]
    assert torch.equal(found["online.visual.stem.weight"], given["online.visual.stem.weight"])
    assert not torch.equal(found["online.motion.stem.weight"], given["online.motion.stem.weight"])
    assert "the motion backbone, which it has not" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "does not exist"),
        ({"init_from": "random"}, "--init-from random: a run begins at random without it"),
        ({"model": {"visual_width": 16}}, r"visual backbone is another network.*--model.visual-width"),
        ({"model": {"motion_width": 16}}, r"motion backbone is another network.*--model.motion-width"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: dict, words: str, demo_store: Path, finished: Path, tmp_path: Path
) -> None:
    config = replace(small(demo_store, tmp_path / "run"), init_from=str(finished if change else tmp_path / "none"))
    if "model" in change:
        change = {"model": replace(config.model, **change["model"])}
    with pytest.raises(ConfigError, match=words):
        pretrain(replace(config, **change))


def test_a_resumed_run_keeps_where_it_began(demo_store: Path, finished: Path, tmp_path: Path) -> None:
    copy, run = tmp_path / "copy", tmp_path / "run"
    shutil.copytree(finished, copy)
    config = replace(small(demo_store, run), init_from=str(copy), max_steps=1)
    pretrain(config)
    shutil.rmtree(copy)  # it is needed no more
    pretrain(replace(config, max_steps=2, resume="auto"))
    assert len(read_metrics(run / "metrics.jsonl")) == 2
    with pytest.raises(ConfigError, match=r"--init-from None \(saved: .*copy\)"):
        pretrain(replace(config, init_from=None, resume="auto"))


def test_more_epochs_go_on_by_the_longer_schedule(
    demo_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "modist")
    run = tmp_path / "run"
    config = replace(small(demo_store, run), epochs=1, max_steps=None)
    config = replace(config, optim=replace(config.optim, warmup_epochs=0.0))
    pretrain(config)  # 4 steps an epoch
    pretrain(replace(config, epochs=2, resume="auto"))
    rates = [row["lr"] for row in read_metrics(run / "metrics.jsonl")]
    assert rates == [learning_rate(config.optim, step, 4, 4 if step < 4 else 8, 8) for step in range(8)]
    assert "--epochs 2 (saved: 1): from step 5 on" in caplog.text
    with pytest.raises(ConfigError, match=r"--epochs 1 \(saved: 2\)"):
        pretrain(replace(config, resume="auto"))


@pytest.mark.fault
def test_a_store_is_known_by_what_is_in_it(demo_store: Path, finished: Path, tmp_path: Path) -> None:
    again, run = tmp_path / "again", tmp_path / "run"
    made = run_script("prepare.py", demo_store.parent / "videos", "--out", again, "--short-side", 72, "--workers", 1)
    assert made.returncode == 0, made.stderr
    assert Store.open(again).content() == Store.open(demo_store).content()
    index = again / "index.parquet"
    pq.write_table(pq.read_table(index), index, compression="gzip")  # as another version of pyarrow may write it
    assert Store.open(again).fingerprint() != Store.open(demo_store).fingerprint()
    shutil.copytree(finished, run)
    pretrain(replace(small(again, run), max_steps=3, resume="auto"))
    assert len(read_metrics(run / "metrics.jsonl")) == 3

    other = tmp_path / "other"
    fewer = tmp_path / "fewer"
    shutil.copytree(demo_store.parent / "videos", fewer)
    next(path for path in sorted(fewer.rglob("*")) if path.is_file()).unlink()
    made = run_script("prepare.py", fewer, "--out", other, "--short-side", 72, "--workers", 1)
    assert made.returncode == 0, made.stderr
    with pytest.raises(ConfigError, match=r"was trained on other videos than .*other holds now"):
        pretrain(replace(small(other, run), resume="auto"))

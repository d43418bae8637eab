"""Checkpoints: whole or absent, and refused by a run that computes something else."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modist_fast.config import CheckpointConfig, ClipsConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig
from modist_fast.errors import ConfigError
from modist_fast.run import checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(store=tmp_path / "store", out=tmp_path / "run", checkpoint=CheckpointConfig(keep=2))


def save(config: TrainConfig, step: int) -> Path:
    return checkpoint.save(config.out, step, {"model": {"w": torch.full((3,), float(step))}}, config)


def test_latest_is_the_newest_and_older_ones_go(config: TrainConfig) -> None:
    paths = [save(config, step) for step in (5, 10, 15)]
    assert checkpoint.latest(config.out) == paths[-1]
    assert [path.exists() for path in paths] == [False, True, True]
    state = checkpoint.load(paths[-1], config, CPU)
    assert state["step"] == 15
    assert torch.equal(state["model"]["w"], torch.full((3,), 15.0))


def test_no_run_has_no_latest(config: TrainConfig) -> None:
    assert checkpoint.latest(config.out) is None


@pytest.mark.parametrize("dies_at", ["save", "fsync", "rename", "symlink"])
def test_a_death_while_saving_leaves_the_one_before(
    config: TrainConfig, dies_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save(config, 5)

    class PowerCutError(Exception):
        pass

    def power_cut(*args: object, **options: object) -> None:
        raise PowerCutError

    def half_written(value: object, file, **options: object) -> None:
        file.write(pickle.dumps("half a checkpoint"))
        raise PowerCutError

    with monkeypatch.context() as patch:
        if dies_at == "save":
            patch.setattr(torch, "save", half_written)
        elif dies_at == "fsync":
            patch.setattr(os, "fsync", power_cut)
        elif dies_at == "rename":
            patch.setattr(Path, "rename", power_cut)
        else:
            patch.setattr(Path, "symlink_to", power_cut)
        with pytest.raises(PowerCutError):
            save(config, 10)
    assert checkpoint.latest(config.out) == first
    assert checkpoint.load(first, config, CPU)["step"] == 5
    save(config, 15)
    assert not list(checkpoint.folder_of(config.out).glob(".*half"))


@pytest.mark.parametrize("place", ["model", "optimizer"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_numbers_that_are_not_finite_are_neither_written_nor_read(
    config: TrainConfig, place: str, bad: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = torch.finfo(dtype).max
    weights = torch.full((3, 4), most, dtype=dtype)  # the sum of these is not finite; they are
    broken = torch.tensor([[1.0, bad], [1.0, 1.0]], dtype=dtype).T
    fine = {"model": {"w": weights, "empty": torch.empty(0)}, "optimizer": {"state": {0: {"velocity": weights}}}}
    kept = checkpoint.save(config.out, 6, fine, config)
    name = {"model": "model.w", "optimizer": "optimizer.state.0.velocity"}[place]
    state = fine | {place: {"model": {"w": broken}, "optimizer": {"state": {0: {"velocity": broken}}}}[place]}
    with pytest.raises(ConfigError) as caught:
        checkpoint.save(config.out, 10, state, config)
    for words in (
        "after step 10",
        f"in 1 of its 2 tensors, the first of them {name}",
        "step-00000006.pt",
        "--optim.lr",
    ):
        assert words in str(caught.value)
    assert checkpoint.latest(config.out) == kept
    assert not (checkpoint.folder_of(config.out) / "step-00000010.pt").exists()
    with monkeypatch.context() as patch:  # as an older version wrote it
        patch.setattr(checkpoint, "flaw_of", lambda state: None)
        path = checkpoint.save(config.out, 10, state, config)
    with pytest.raises(ConfigError, match=rf"step-00000010\.pt has numbers that are not finite.*{name}"):
        checkpoint.load(path, config, CPU)


def test_checkpoints_are_ordered_by_their_steps(config: TrainConfig) -> None:
    paths = [save(config, step) for step in (99_999_999, 100_000_000, 100_000_001)]
    assert [path.exists() for path in paths] == [False, True, True]
    (checkpoint.folder_of(config.out) / "latest").unlink()
    assert checkpoint.latest(config.out) == paths[-1]


def test_a_damaged_file_is_named(config: TrainConfig) -> None:
    path = save(config, 5)
    whole = path.read_bytes()
    torch.save([1, 2], path)
    for content in (whole[:100], b"", path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"step-00000005\.pt cannot be read.*Remove it.*--overwrite"):
            checkpoint.load(path, config, CPU)


def test_every_option_that_changes_the_computation_is_named(config: TrainConfig) -> None:
    path = save(config, 5)
    other = replace(config, model=ModelConfig(arch="r18"), seed=3, optim=OptimConfig(lr=0.7))
    with pytest.raises(ConfigError) as caught:
        checkpoint.load(path, other, CPU)
    for words in ("--model.arch r18 (saved: r50)", "--seed 3 (saved: 0)", "--optim.lr 0.7 (saved: 0.1)"):
        assert words in str(caught.value)


def test_options_outside_the_computation_may_change(config: TrainConfig, tmp_path: Path) -> None:
    path = save(config, 5)
    other = replace(config, store=tmp_path / "moved", max_steps=99, checkpoint=CheckpointConfig(every=7))
    assert checkpoint.load(path, other, CPU)["step"] == 5


def begun_in_stored_units(path: Path, **changes: dict) -> None:
    """Make a checkpoint one of format 1, in which γ counted in a store's units."""
    state = torch.load(path)
    for part, values in changes.items():
        state["config"][part] |= values
    torch.save(state | {"format": 1}, path)


def test_a_run_begun_with_the_old_unit_of_gamma_goes_on_with_what_it_came_to(config: TrainConfig) -> None:
    path = save(config, 5)
    begun_in_stored_units(path)
    with pytest.raises(ConfigError, match=r"--clips\.motion-threshold 0\.02 \(saved: 0\.002\).*share of full scale"):
        checkpoint.load(path, config, CPU)
    same = replace(config, clips=ClipsConfig(motion_threshold=0.002))
    assert checkpoint.load(path, same, CPU)["step"] == 5
    # The scores at the limit are the same ones.
    assert same.plan(grid=4).min_score == 0.02


@pytest.mark.parametrize("changes", [{"clips": {"motion_threshold": 0.0}}, {"objective": {"motion": False}}])
def test_where_gamma_did_nothing_its_unit_does_not_matter(config: TrainConfig, changes: dict) -> None:
    path = save(config, 5)
    begun_in_stored_units(path, **changes)
    clips = ClipsConfig(**changes.get("clips", {}))
    same = replace(config, clips=clips, objective=ObjectiveConfig(**changes.get("objective", {})))
    assert checkpoint.load(path, same, CPU)["step"] == 5


def test_an_option_that_is_newer_than_the_run_counts_as_its_default(config: TrainConfig) -> None:
    """A run begun before an option existed goes on with its default, and is refused with another value."""
    path = save(config, 3)
    state = torch.load(path, weights_only=True)
    del state["config"]["objective"]["temperature"]
    torch.save(state, path)
    assert checkpoint.load(path, config, CPU)["step"] == 3
    with pytest.raises(ConfigError, match=r"--objective\.temperature 0\.2 \(saved: 0\.1\)"):
        checkpoint.load(path, replace(config, objective=ObjectiveConfig(temperature=0.2)), CPU)


def test_another_format_is_refused(config: TrainConfig) -> None:
    path = save(config, 5)
    torch.save(torch.load(path) | {"format": 0}, path)
    with pytest.raises(ConfigError, match="format 0"):
        checkpoint.load(path, config, CPU)

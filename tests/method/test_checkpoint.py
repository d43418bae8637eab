"""Checkpoints: whole or absent, and refused by a run that computes something else."""

import errno
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modist_fast.config import CheckpointConfig, ClipsConfig, ModelConfig, ObjectiveConfig, OptimConfig, TrainConfig
from modist_fast.errors import ConfigError
from modist_fast.host.writer import Writer
from modist_fast.run import checkpoint
from modist_fast.run.whole_state import SaveError, digest_of, snapshot, write_durably

pytestmark = pytest.mark.fault

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


@pytest.mark.parametrize("dies_at", ["save", "fsync", "rename", "latest"])
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
            patch.setattr(checkpoint, "_name_latest", power_cut)
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
        checkpoint.refuse_flaw(config.out, 10, state)
    for words in (
        "after step 10",
        f"in 1 of its 2 tensors, the first of them {name}",
        "step-00000006.pt",
        "--optim.lr",
    ):
        assert words in str(caught.value)
    assert checkpoint.latest(config.out) == kept
    path = checkpoint.save(config.out, 10, state, config)  # as an older version, which did not ask, wrote it
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


# What cannot lie


def test_latest_is_a_text_file_and_an_old_link_still_opens(config: TrainConfig) -> None:
    paths = [save(config, step) for step in (5, 10)]
    latest = checkpoint.folder_of(config.out) / "latest"
    assert not latest.is_symlink()
    assert latest.read_text() == "step-00000010.pt\n"
    latest.unlink()
    latest.symlink_to("step-00000005.pt")  # as an older version left it
    assert checkpoint.latest(config.out) == paths[0]
    third = save(config, 15)
    assert not latest.is_symlink()
    assert checkpoint.latest(config.out) == third


@pytest.mark.parametrize("content", ["../../elsewhere.pt", "step-00000099.pt", "", "\xff"])
def test_what_latest_should_not_name_is_said(
    config: TrainConfig, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    newest = [save(config, step) for step in (5, 10)][-1]
    (checkpoint.folder_of(config.out) / "latest").write_bytes(content.encode("latin-1"))
    assert checkpoint.latest(config.out) == newest
    assert "WARNING" in caplog.text
    assert newest.name in caplog.text


def test_other_content_under_right_checksums_is_seen(config: TrainConfig, caplog: pytest.LogCaptureFixture) -> None:
    """The zip's own checksums are those of what was written; the digest is that of what was to be saved."""
    older, newest = [save(config, step) for step in (5, 10)]
    state = torch.load(newest)
    state["model"]["w"][1] = 7.0
    torch.save(state, newest)
    with pytest.raises(ConfigError, match=r"step-00000010\.pt cannot be read .*digest differs"):
        checkpoint.read(newest, CPU)
    assert checkpoint.latest(config.out) == older
    assert "step-00000010.pt cannot be read" in caplog.text
    del state["digest"]
    torch.save(state, newest)  # one of an older version, which had none
    assert checkpoint.latest(config.out) == newest


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_no_more_keeps_the_one_before(
    config: TrainConfig, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save(config, 5)
    whole = first.read_bytes()
    with monkeypatch.context() as patch:

        def fail(*args: object) -> None:
            raise OSError(error, os.strerror(error))

        patch.setattr(os, "fsync", fail)
        with pytest.raises(SaveError) as caught:
            checkpoint.save(config.out, 10, {"model": {"w": torch.zeros(1_000_000)}}, config)
    for words in ("after step 10", os.strerror(error), "4.0 MB are needed", "MB are free", str(first), "--resume auto"):
        assert words in str(caught.value)
    assert first.read_bytes() == whole
    assert sorted(path.name for path in first.parent.iterdir()) == ["latest", first.name]
    assert checkpoint.latest(config.out) == first


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_in_the_middle_of_a_file_is_named(tmp_path: Path) -> None:
    half = tmp_path / "half"
    half.symlink_to("/dev/full")
    with pytest.raises(SaveError, match=r"No space left on device.*4\.0 MB are needed"):
        write_durably({"w": torch.zeros(1_000_000)}, half)
    assert not half.is_symlink()


def test_the_file_holds_the_moment_at_which_it_was_asked_for() -> None:
    """A step may change the weights while the thread writes."""
    shared = torch.zeros(3)
    state = {"model": {"a": shared, "b": [shared, 1.5]}}
    kept = snapshot(state)
    before = digest_of(state)
    shared += 1
    assert digest_of(kept) == before != digest_of(state)


def test_an_error_of_the_writing_thread_is_raised_by_the_next_call() -> None:
    def fail() -> None:
        raise SaveError("full")

    writer = Writer("checkpoint")
    writer.begin(fail)
    with pytest.raises(SaveError, match="full"):
        writer.begin(lambda: None)
    writer.begin(lambda: None)
    writer.wait()

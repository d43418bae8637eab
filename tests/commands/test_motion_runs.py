"""Every motion input through the commands: a store, two steps of pre-training, the picture of its clips."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import modist_fast
from modist_fast.commands.edge_map import edge_map
from modist_fast.commands.pretrain import parse
from modist_fast.config import TrainConfig, check
from modist_fast.demo_videos import make_demo_videos
from modist_fast.errors import ConfigError
from modist_fast.evaluation.data.views import ViewsConfig, resolve_views
from modist_fast.gradcam.paired import PairedClips
from modist_fast.run import checkpoint
from modist_fast.watch.run_log import read_metrics
from modist_pipelines.errors import DataError
from modist_pipelines.motion_inputs import MOTION_INPUTS
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.store.reader import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("all-inputs")
    make_demo_videos(folder / "videos", num_videos=6, seed=0, workers=1)
    options = PrepareConfig(folder / "videos", folder / "store", short_side=48, workers=1)
    prepare(replace(options, motion_inputs=tuple(MOTION_INPUTS)), edge_map)
    return folder / "store"


def config_of(store: Path, out: Path, name: str, **clips: object) -> TrainConfig:
    base = modist_fast.presets.demo(store, out)
    return replace(
        base,
        model=replace(base.model, visual_width=4, motion_width=4, head_width=16),
        device="cpu",
        precision="fp32",
        max_steps=2,
        batch_size=4,
        group_size=2,
        clips=replace(base.clips, crop_size=32, motion_threshold=0.0, motion_input=name, **clips),
        objective=replace(base.objective, bank_size=8),
    )


@pytest.fixture(scope="module")
def runs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("runs")
    return {name: modist_fast.pretrain(config_of(store, out / name, name), progress=False) for name in MOTION_INPUTS}


@pytest.mark.parametrize("name", MOTION_INPUTS)
def test_two_steps_of_each_input(runs: dict[str, Path], name: str) -> None:
    rows = read_metrics(runs[name] / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(np.isfinite(row["loss"]) for row in rows)
    path = checkpoint.latest(runs[name])
    assert path is not None
    state = checkpoint.read(path, torch.device("cpu"))["model"]
    stems = {key: weight for key, weight in state.items() if key.endswith("motion.stem.weight")}
    assert {weight.shape[1] for weight in stems.values()} == {MOTION_INPUTS[name].channels}
    assert len(stems) == 2  # online and momentum


def test_two_inputs_train_two_nets_and_the_visual_clips_are_the_same(runs: dict[str, Path]) -> None:
    losses = {name: read_metrics(run / "metrics.jsonl")[1] for name, run in runs.items()}
    assert len({row["loss_motion"] for row in losses.values()}) == len(runs)
    sheets = {name: np.asarray(Image.open(run / "clips.png")) for name, run in runs.items()}
    for sheet in sheets.values():
        np.testing.assert_array_equal(sheet[: sheet.shape[0] // 8 - 8], sheets["edges"][: sheet.shape[0] // 8 - 8])
    below = {name: sheet[sheet.shape[0] // 8 + 8 : sheet.shape[0] // 4 - 16, 92:] for name, sheet in sheets.items()}
    colourful = {name for name, part in below.items() if (np.ptp(part.astype(int), axis=2) > 40).mean() > 0.02}
    assert colourful == {"flow"}


def test_motion_flip_changes_what_is_learned_from(store: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    out = modist_fast.pretrain(config_of(store, tmp_path / "run", "flow", motion_flip=1.0), progress=False)
    (_, before), (_, after) = (read_metrics(run / "metrics.jsonl") for run in (runs["flow"], out))
    assert after["loss_motion"] != before["loss_motion"]
    with pytest.raises(ConfigError, match=r"--clips\.motion-flip 1\.5"):
        check(config_of(store, tmp_path, "flow", motion_flip=1.5), 1)


def test_grad_cam_takes_the_length_of_flow_for_what_moves(store: Path) -> None:
    spec = resolve_views(ViewsConfig(spatial=1, num_frames=4, stride=4, crop_size=32, short_side=32), {})
    found: dict[str, torch.Tensor] = {}
    for name in ("magnitude", "flow"):
        reader = PairedClips(Store.open(store), spec, name)
        (clip,) = reader.read([(0, reader.middle(0))])
        reader.close()
        found[name] = clip.motion
    assert found["flow"].shape == (4, 32, 32)
    assert found["magnitude"].max() > 0.1
    torch.testing.assert_close(found["flow"], found["magnitude"], rtol=0, atol=0.03)
    with pytest.raises(DataError, match="--motion-input flwo: there is no such motion input"):
        PairedClips(Store.open(store), spec, "flwo")


def test_an_unknown_input_lists_those_there_are(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = ", ".join(MOTION_INPUTS)
    with pytest.raises(ConfigError, match=f"--clips.motion-input flwo: one of auto, {everything}. Did you mean flow"):
        modist_fast.pretrain(config_of(store, tmp_path / "run", "flwo"), progress=False)
    with pytest.raises(SystemExit):
        parse(["--preset", "demo", "--store", str(store), "--out", "OUT", "--clips.motion-input", "flwo"])
    said = capsys.readouterr()
    assert all(name in said.err + said.out for name in MOTION_INPUTS)

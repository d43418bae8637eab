"""Fine-tuning and the supervised baseline: schedules, sampling, and runs on a small store."""

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_store import video_info
from safetensors.torch import load_file
from torch import nn

from modist_fast.config import CheckpointConfig
from modist_fast.errors import ConfigError
from modist_fast.evaluation.config import BackboneConfig, LabelledConfig, SplitConfig
from modist_fast.evaluation.data.views import ViewsConfig, plan_training_clip, plan_views, resolve_views
from modist_fast.evaluation.finetune import training
from modist_fast.evaluation.finetune.classifier import Classifier
from modist_fast.evaluation.finetune.config import (
    RECIPES,
    FinetuneConfig,
    SupervisedConfig,
    TrainingAugmentation,
    check,
    with_recipe,
)
from modist_fast.evaluation.finetune.run import run_finetune
from modist_fast.evaluation.finetune.samples import SampleOrder, TrainingClips
from modist_fast.evaluation.finetune.schedule import SupervisedOptimConfig, supervised_learning_rate
from modist_fast.evaluation.results import write_result
from modist_fast.host.distributed import World, join_world
from modist_fast.models import build_visual
from modist_fast.watch.run_log import read_metrics
from modist_pipelines.store.reader import Store, shard_path
from tests.commands.launching import kill_family, newest, run_script, script_command, start_and_signal
from tests.method.striped_store import make_striped_store

pytestmark = pytest.mark.slow

# float32: a net as small as this, on pictures as small as these, is no matter for a CPU's bf16.
VIEWS = ViewsConfig(temporal=2, spatial=1, num_frames=4, stride=4, crop_size=32)
COMMAND: list[object] = [
    *("supervised", "--arch", "r18", "--width", 8, "--views.num-frames", 4, "--views.stride", 4),
    *("--views.crop-size", 32, "--views.temporal", 2, "--views.spatial", 1, "--batch-size", 16, "--group-size", 4),
    *("--epochs", 4, "--optim.warmup-epochs", 1, "--optim.lr", 0.05, "--precise-bn-clips", 32),
    *("--precision", "fp32", "--num-threads", 1, "--checkpoint.every", 2),
]
NUM_STEPS = 12


@pytest.fixture(scope="module")
def striped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_striped_store(tmp_path_factory.mktemp("striped") / "store")


def small_config(store: Path, out: Path) -> SupervisedConfig:
    return SupervisedConfig(
        out=out,
        network=BackboneConfig(backbone="random", arch="r18", width=8),
        data=LabelledConfig(store=store, labels=store / "list.csv"),
        views=VIEWS,
        augmentation=TrainingAugmentation(crop="scaled"),
        optim=SupervisedOptimConfig(lr=0.2, warmup_epochs=2.0),
        epochs=8.0,
        batch_size=16,
        group_size=8,
        dropout=0.2,
        precise_bn_clips=32,
        precision="fp32",
        device="cpu",
        num_threads=1,
    )


def run(config: FinetuneConfig) -> dict:
    with join_world("cpu") as world:
        result = run_finetune(config, world)
    assert result is not None
    return result


def losses(out: Path) -> list[float]:
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


# What it computes


def test_cosine_with_warm_up_by_hand() -> None:
    config = SupervisedOptimConfig(lr=0.01, warmup_epochs=34, warmup_start_lr=0.001)
    at_34 = 0.005 * (1 + math.cos(0.17 * math.pi))
    expected = {0: 0.001, 17: (0.001 + at_34) / 2, 34: at_34, 100: 0.005, 150: 0.005 * (1 - math.sqrt(0.5)), 200: 0.0}
    for epoch, rate in expected.items():
        assert supervised_learning_rate(config, epoch, 200, 64) == pytest.approx(rate, abs=1e-12)
        assert supervised_learning_rate(config, epoch, 200, 16) == pytest.approx(rate / 4, abs=1e-12)


def test_the_ssv2_recipe_falls_by_ten_at_14_and_18() -> None:
    config = with_recipe(SupervisedConfig(out=Path("out")), "ssv2-full")
    rates = {0: 1e-4, 0.095: (1e-4 + 0.03) / 2, 0.19: 0.03, 13.99: 0.03, 14: 0.003, 17.99: 0.003, 18: 3e-4, 21.9: 3e-4}
    for epoch, rate in rates.items():
        assert supervised_learning_rate(config.optim, epoch, config.epochs, 16) == pytest.approx(rate)


@pytest.mark.parametrize("num_frames", [3, 16, 17, 75, 220])
def test_segments_are_those_of_a_loop(num_frames: int) -> None:
    views = ViewsConfig(sampling="segments", num_frames=16, stride=4, crop_size=32)
    spec, info = resolve_views(views, {}), video_info(num_frames)
    bounds = []
    for segment in range(16):
        first = round((num_frames - 1) / 16 * segment)
        last = round((num_frames - 1) / 16 * (segment + 1))
        bounds.append((first, last))
    (middle,) = {tuple(clip.frames.tolist()) for clip in plan_views(spec, info, 4)}
    assert middle == tuple((first + last) // 2 for first, last in bounds)
    seen: list[set[int]] = [set() for _ in bounds]
    for epoch in range(200):
        clip = plan_training_clip(spec, info, 4, seed=1, epoch=epoch, video=0, flip=0.0)
        assert not clip.flip
        for segment, frame in enumerate(clip.frames.tolist()):
            seen[segment].add(frame)
    assert seen == [set(range(first, last + 1)) for first, last in bounds], "every frame of a segment, and no other"


def test_steps_take_one_pass_over_the_videos_after_another() -> None:
    videos = np.array([3, 5, 8, 13, 21])
    order = SampleOrder(videos, batch_size=4, epochs=4, seed=7)
    assert order.num_steps == 5
    members = [order.members(step) for step in range(order.num_steps)]
    epochs, stream = (np.concatenate(parts) for parts in zip(*members, strict=True))
    for epoch in range(4):
        assert sorted(stream[5 * epoch : 5 * epoch + 5]) == videos.tolist()
        assert set(epochs[5 * epoch : 5 * epoch + 5]) == {epoch}
    assert len({tuple(stream[5 * epoch : 5 * epoch + 5]) for epoch in range(4)}) > 1
    assert order.epoch_at(5) == 4.0


@pytest.mark.parametrize("frozen", ["none", "res3", "res5", "all"])
def test_frozen_parts_stay_and_all_others_change(striped: Path, tmp_path: Path, frozen: str) -> None:
    optim = SupervisedOptimConfig(lr=0.2, warmup_epochs=0.0)
    clips = 0 if frozen == "all" else 32
    config = replace(
        small_config(striped, tmp_path / "run"), frozen=frozen, epochs=4.0, optim=optim, precise_bn_clips=clips
    )
    torch.manual_seed(0)
    start = build_visual("r18", 8).state_dict()
    run(config)
    trained = load_file(tmp_path / "run" / "backbone.safetensors")
    order = ["stem", "res2", "res3", "res4", "res5", "all"]
    last = order.index(frozen) if frozen != "none" else -1
    for name, tensor in trained.items():
        if name.endswith("num_batches_tracked"):
            continue
        part = name.split(".")[1] if name.startswith("stages") else "stem"
        same = torch.equal(tensor, start[name])
        assert same == (order.index(part) <= last), name


@pytest.mark.parametrize(("shuffled", "low", "high"), [(False, 1.0, 1.0), (True, 0.25, 0.75)])
def test_an_easy_task_is_learned_and_its_shuffled_labels_are_not(
    tmp_path: Path, shuffled: bool, low: float, high: float
) -> None:
    store = make_striped_store(tmp_path / "store", shuffled=shuffled)
    result = run(small_config(store, tmp_path / "run"))
    assert low <= result["top1"] <= high
    assert result["task"] == "supervised"
    assert result["num_test"] == 32


def test_one_video_a_class_is_the_smallest_share(striped: Path, tmp_path: Path) -> None:
    result = run(replace(small_config(striped, tmp_path / "run"), fraction=0.01, epochs=16.0))
    assert result["training"][0]["videos"] == 2
    assert result["training"][0]["steps"] == 2


# Odd and damaged videos


def test_shares_are_runs_of_their_own_in_one_result(striped: Path, tmp_path: Path) -> None:
    config = replace(small_config(striped, tmp_path / "run"), shares=(0.1, 1.0), epochs=2.0, max_steps=2)
    config = replace(config, optim=SupervisedOptimConfig(lr=0.2, warmup_epochs=0.0), precise_bn_clips=0)
    result = run(config)
    assert [row["share"] for row in result["rows"]] == [0.1, 1.0]
    assert [row["num_train"] for row in result["rows"]] == [4, 48]
    assert "top1" not in result
    alone = run(replace(config, shares=(), fraction=0.1, out=tmp_path / "alone"))
    assert alone["videos"] == result["rows"][0]["videos"]


def test_a_larger_test_crop_gives_other_predictions_at_its_places(
    striped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    at_places = Classifier.at_places

    def kept(self: Classifier, clips: torch.Tensor, window: float) -> torch.Tensor:
        logits = at_places(self, clips, window)
        shapes.append((*clips.shape[3:], *logits.shape[1:]))
        return logits

    monkeypatch.setattr(Classifier, "at_places", kept)
    config = replace(small_config(striped, tmp_path / "one"), max_steps=1, precise_bn_clips=0)
    found = {}
    for name, changes in (("same", {}), ("larger", {"test_crop_size": 64}), ("sliding", {"pooling": "sliding"})):
        changes = {"test_crop_size": 64, **changes} if name == "sliding" else changes
        result = run(replace(config, views=replace(VIEWS, **changes), out=tmp_path / name))
        found[name] = [row["probability"] for row in result["videos"]]
    assert set(shapes) == {(32, 32, 1, 2), (64, 64, 1, 2), (64, 64, 4, 2)}
    assert found["same"] != found["larger"] != found["sliding"]


def test_odd_videos_count_as_wrong_or_not_at_all(striped: Path, tmp_path: Path) -> None:
    labels = tmp_path / "list.csv"
    labels.write_text((striped / "list.csv").read_text() + "down/gone.mp4,down,test\ndown/lost.mp4,down,train\n")
    base = replace(small_config(striped, tmp_path / "wrong"), data=LabelledConfig(store=striped, labels=labels))
    wrong = run(base)
    assert (wrong["num_test"], wrong["num_odd"], wrong["top1"]) == (33, 1, 32 / 33)
    assert {row["video"] for row in wrong["odd"]} == {"down/gone.mp4", "down/lost.mp4"}
    assert wrong["training"][0]["videos"] == 48
    data = replace(base.data, odd_videos="exclude")
    excluded = run(replace(base, data=data, resume="auto"))
    assert (excluded["num_test"], excluded["num_odd"], excluded["top1"]) == (32, 0, 1.0)


def test_damaged_frames_cost_their_video_alone(tmp_path: Path) -> None:
    store = make_striped_store(tmp_path / "store")
    opened = Store.open(store)
    rows = {name: row for row, name in enumerate(opened.videos)}
    for name in ("across/02.mp4", "down/61.mp4"):  # one that trains, one that tests
        row = rows[name]
        begin, end = opened._offsets["rgb"][row][[0, -1]].tolist()
        with shard_path(store, 0).open("r+b") as file:
            file.seek(begin)
            file.write(os.urandom(end - begin))
    result = run(replace(small_config(store, tmp_path / "run"), epochs=4.0))
    (training,) = result["training"]
    assert [row["video"] for row in training["damaged"]] == ["across/02.mp4"]
    rows_of_steps = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert sum(row["damaged"] for row in rows_of_steps) == 4, "once in each of four passes"
    assert all(math.isfinite(row["loss"]) for row in rows_of_steps)
    assert (result["num_odd"], result["num_test"]) == (1, 32)
    (odd,) = [row for row in result["videos"] if row["predicted"] is None]
    assert odd["video"] == "down/61.mp4"


def test_a_damaged_sample_adds_nothing_to_the_gradient(striped: Path) -> None:
    from modist_fast.evaluation.finetune.samples import TrainingBatch
    from modist_fast.evaluation.finetune.training import ClassifierStep

    config = replace(small_config(striped, Path("none")), dropout=0.0, batch_size=4, group_size=4)
    clips, labels = torch.randn(4, 3, 4, 32, 32), torch.tensor([0, -1, 1, 0])
    with join_world("cpu") as world:
        torch.manual_seed(0)
        model = Classifier(build_visual("r18", 4), 2, dropout=0.0)
        before = model.linear.weight.detach().clone()
        step = ClassifierStep(config, world, model)
        with torch.no_grad():
            probabilities = model.train()(clips).softmax(dim=1)
            pooled = model.backbone(clips)
        counted = labels >= 0
        wanted = nn.functional.one_hot(labels[counted], 2)
        gradient = (probabilities[counted] - wanted).T @ pooled[counted] / 4 + 1e-4 * before
        loss, _, count = step(TrainingBatch(0, clips, labels, {}), 0.1)[0].tolist()
    # The first step of Nesterov's momentum is 1 + 0.9 of the gradient.
    torch.testing.assert_close(model.linear.weight.detach(), before - 0.1 * 1.9 * gradient, rtol=1e-4, atol=1e-6)
    assert count == 3
    assert loss == pytest.approx(-float(probabilities[counted].gather(1, labels[counted, None]).log().sum()), rel=1e-5)


# Runs


@pytest.fixture(scope="module")
def one_process(striped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("one") / "run"
    done = run_script("evaluate.py", *options(striped, out))
    assert done.returncode == 0, done.stderr
    return out


def options(store: Path, out: Path, *more: object) -> list[object]:
    return [*COMMAND, "--store", store, "--labels", store / "list.csv", "--out", out, *more]


def test_two_processes_compute_what_one_does(striped: Path, one_process: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run_script("evaluate.py", *options(striped, out), processes=2)
    assert done.returncode == 0, done.stderr
    assert len(losses(one_process)) == NUM_STEPS
    np.testing.assert_allclose(losses(out), losses(one_process), rtol=2e-3)
    one, two = (load_file(path / "backbone.safetensors") for path in (one_process, out))
    for name, tensor in one.items():
        if tensor.dtype == torch.float32:
            torch.testing.assert_close(two[name], tensor, rtol=2e-2, atol=2e-2)
    results = [json.loads((path / "result.json").read_text()) for path in (one_process, out)]
    assert [row["video"] for row in results[0]["videos"]] == [row["video"] for row in results[1]["videos"]]
    chances = [np.array([row["probability"] for row in result["videos"]]) for result in results]
    np.testing.assert_allclose(chances[0], chances[1], atol=0.05)


def test_a_killed_and_resumed_run_repeats_every_bit(striped: Path, one_process: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = options(striped, out, "--resume", "auto")
    command = script_command("evaluate.py", *arguments)
    start_and_signal(command, out, 5, kill_family)
    assert len(losses(out)) < NUM_STEPS, "killed too late to prove anything"
    resumed = run_script("evaluate.py", *arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after step" in resumed.stderr
    assert losses(out) == losses(one_process)
    for name in ("backbone.safetensors", "linear.safetensors"):
        assert (out / name).read_bytes() == (one_process / name).read_bytes()
    videos = [json.loads((path / "result.json").read_text())["videos"] for path in (out, one_process)]
    assert videos[0] == videos[1]


@pytest.mark.long
def test_sigterm_in_a_later_fold_keeps_all_that_was_trained(striped: Path, tmp_path: Path) -> None:
    labels, rows = tmp_path / "list.csv", (striped / "list.csv").read_text().splitlines()
    labels.write_text("path,label,group\n" + "".join(f"{row}\n" for row in rows[1:]))  # "train" and "test" are groups
    folds = ("--labels", labels, "--protocol", "leave-one-group-out", "--resume", "auto")
    whole, broken = (options(striped, tmp_path / name, *folds) for name in ("whole", "broken"))
    undisturbed = run_script("evaluate.py", *whole)
    assert undisturbed.returncode == 0, undisturbed.stderr
    second = tmp_path / "broken" / "folds" / "001"
    code = start_and_signal(
        script_command("evaluate.py", *broken), second, 3, lambda process: os.kill(process.pid, signal.SIGTERM)
    )
    assert code == 128 + signal.SIGTERM
    done = len(losses(second))
    assert torch.load(newest(second))["step"] == done
    assert not (second / "backbone.safetensors").exists()
    assert not (tmp_path / "broken" / "result.json").exists()
    resumed = run_script("evaluate.py", *broken)
    assert resumed.returncode == 0, resumed.stderr
    for fold in ("000", "001"):
        paths = [tmp_path / name / "folds" / fold for name in ("whole", "broken")]
        assert losses(paths[1]) == losses(paths[0]), fold
        files = [[(path / f"{part}.safetensors").read_bytes() for part in ("backbone", "linear")] for path in paths]
        assert files[0] == files[1], fold
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "broken")]
    assert results[0]["videos"] == results[1]["videos"]
    assert len({row["video"] for row in results[1]["videos"]}) == len(rows) - 1, "each tested once"
    assert [(row["fold"], row["videos"]) for row in results[1]["training"]] == [
        ("without test", 48),
        ("without train", 32),
    ]


def test_another_run_is_not_gone_on_with(striped: Path, tmp_path: Path) -> None:
    base = replace(small_config(striped, tmp_path / "run"), epochs=1.0, optim=SupervisedOptimConfig(warmup_epochs=0.0))
    run(base)
    again = replace(base, resume="auto")
    swapped = SplitConfig(train_where=("split=test",), test_where=("split=train",))
    for other, words in (
        (base, "--resume auto"),
        (replace(again, optim=SupervisedOptimConfig(lr=0.1, warmup_epochs=0.0)), r"--optim.lr 0.1 \(saved: 0.01\)"),
        (replace(again, fraction=0.5), "--fraction 0.5"),
        (replace(again, split=swapped), "other videos"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(other)


def short_config(store: Path, out: Path, **changes) -> SupervisedConfig:
    """Two steps, saved after each; no precise statistics."""
    base = replace(small_config(store, out), optim=SupervisedOptimConfig(warmup_epochs=0.0), epochs=1.0)
    return replace(base, max_steps=2, precise_bn_clips=0, checkpoint=CheckpointConfig(every=1), **changes)


def test_overwrite_removes_the_old_run_with_all_its_folds(
    striped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    config = short_config(striped, out)
    before = os.umask(0o027)
    try:
        run(config)
    finally:
        os.umask(before)
    write_result(out, {"task": "of the old run"})
    assert {path.stat().st_mode & 0o777 for path in out.rglob("*.safetensors")} == {0o640}
    shutil.copytree(out / "checkpoints", out / "folds" / "007" / "checkpoints", symlinks=True)
    others = [out / "notes.txt", out / "folds" / "007" / "notes.txt", out / "pretrained" / "backbone.safetensors"]
    others[-1].parent.mkdir()
    for path in others:
        path.write_text("mine")
    held = sorted(out.rglob("*"))
    for changes, words in (
        ({}, r"already holds a run .*result\.json.*--overwrite"),
        ({"overwrite": True, "network": BackboneConfig(f"random:{out}")}, r"would remove --backbone random:"),
        ({"overwrite": True, "resume": "auto"}, r"--overwrite --resume auto"),
    ):
        with pytest.raises(ConfigError, match=words):
            run(replace(config, **changes))
        assert sorted(out.rglob("*")) == held
    caplog.set_level("WARNING", "modist")
    run(replace(config, overwrite=True, max_steps=1))
    assert "--overwrite: removed" in caplog.text
    assert len(losses(out)) == 1
    assert [path.read_text() for path in others] == ["mine"] * 3
    assert not (out / "result.json").exists()
    assert [path.name for path in (out / "folds" / "007").iterdir()] == ["notes.txt"]


def test_a_finished_run_without_checkpoints_is_not_begun_again(striped: Path, tmp_path: Path) -> None:
    config = short_config(striped, tmp_path / "one")
    run(config)
    shutil.rmtree(tmp_path / "one" / "checkpoints")
    write_result(tmp_path / "folds", {"task": "of folds that are gone"})
    for out, words in (("one", "linear.safetensors"), ("folds", "result.json")):
        held = {path: path.read_bytes() for path in (tmp_path / out).rglob("*") if path.is_file()}
        with pytest.raises(ConfigError, match=rf"without a checkpoint.*{words}.*--overwrite"):
            run(replace(config, out=tmp_path / out, resume="auto"))
        assert {path: path.read_bytes() for path in (tmp_path / out).rglob("*") if path.is_file()} == held


@pytest.mark.parametrize("lr", [1e33, 1e45])
def test_a_diverged_net_is_not_kept(striped: Path, tmp_path: Path, lr: float) -> None:
    """1e45: weights that are not finite. 1e33: weights that are, whose precise batch-norm statistics are not."""
    config = short_config(striped, tmp_path / "run", frozen="none")
    optim = SupervisedOptimConfig(lr=lr, warmup_epochs=0.0)
    words = (
        r"after step 1 the state .*model\." if lr == 1e45 else r"after step 1 the network .*running_.*step-00000001\.pt"
    )
    with pytest.raises(ConfigError, match=words):
        run(replace(config, optim=optim, max_steps=1, precise_bn_clips=32))
    files = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert not files & {"backbone.safetensors", "linear.safetensors"}
    assert ("step-00000001.pt" in files) == (lr == 1e33)


def test_precise_statistics_of_no_clip_are_an_error(
    striped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "set_precise_statistics", lambda *_: None)
    config = replace(short_config(striped, tmp_path / "run", frozen="none"), max_steps=1, precise_bn_clips=16)
    with pytest.raises(ConfigError, match="--precise-bn-clips: no clip could be read"):
        run(config)


# Options


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 18}, "multiple of 8"),
        ({"group_size": 1}, "--group-size 1"),
        ({"fraction": 0.0}, "--fraction 0"),
        ({"shares": (0.1, 1.5)}, "--shares 1.5"),
        ({"shares": (0.1,), "fraction": 0.5}, "leave out --fraction"),
        ({"frozen": "all"}, "--precise-bn-clips 0"),
        ({"optim": SupervisedOptimConfig(warmup_epochs=34.0)}, "--optim.warmup-epochs 34"),
        ({"optim": SupervisedOptimConfig(warmup_epochs=0, policy="steps")}, "--optim.step-epochs"),
        ({"network": BackboneConfig(backbone="RUN")}, "random:RUN"),
    ],
)
def test_options_that_cannot_work_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(replace(small_config(Path("store"), Path("out")), **changes), world_size=1)


def test_the_recipes_are_the_papers() -> None:
    base = FinetuneConfig(out=Path("out"), network=BackboneConfig(backbone="run"))
    for name in ("ucf101-full", "hmdb51-full"):
        recipe = with_recipe(base, name)
        assert (recipe.views.num_frames, recipe.views.stride) == (32, 8)
        assert (recipe.views.temporal, recipe.views.spatial) == (10, 3)
        assert (recipe.batch_size, recipe.group_size, recipe.epochs, recipe.dropout) == (64, 8, 200, 0.5)
        assert (recipe.optim.lr, recipe.optim.warmup_epochs, recipe.optim.warmup_start_lr) == (0.01, 34, 0.001)
        assert (recipe.optim.weight_decay, recipe.optim.policy) == (1e-4, "cosine")
    ssv2 = with_recipe(base, "ssv2-full")
    assert (ssv2.views.num_frames, ssv2.views.sampling, ssv2.augmentation.flip) == (16, "segments", 0.0)
    assert (ssv2.views.temporal, ssv2.views.spatial) == (1, 1)
    assert (ssv2.batch_size, ssv2.epochs, ssv2.optim.weight_decay, ssv2.dropout) == (16, 22, 1e-6, 0.5)
    for name in ("ucf101-linear", "hmdb51-linear"):
        recipe = with_recipe(base, name)
        assert (recipe.frozen, recipe.batch_size, recipe.epochs, recipe.dropout) == ("all", 256, 200, 0.0)
        assert (recipe.optim.lr, recipe.optim.lr_batch_size, recipe.optim.weight_decay) == (32.0, 256, 0.0)
        assert (recipe.optim.warmup_epochs, recipe.precise_bn_clips) == (0.0, 0)
        assert (recipe.augmentation.crop_area, recipe.augmentation.crop_aspect) == ((0.3, 1.0), (0.5, 2.0))
        assert (recipe.augmentation.color, recipe.augmentation.gray) == (0.0, 0.0)
    for name in ("ucf101-full", "ucf101-linear", "ssv2-full", "k400-supervised"):
        views = with_recipe(base, name).views
        assert (views.crop_size, views.test_crop_size, views.pooling) == (224, 256, "sliding")
    assert with_recipe(base, "ucf101-lowshot").shares == (0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
    k400 = with_recipe(base, "k400-supervised")
    assert (k400.views.num_frames, k400.epochs, k400.optim.lr, k400.optim.warmup_epochs) == (8, 196, 0.1, 34)
    for name in RECIPES:
        check(with_recipe(base, name), world_size=2)
    with pytest.raises(ConfigError, match="no such preset"):
        with_recipe(base, "ucf101")


def test_training_clips_follow_the_augmentation(striped: Path) -> None:
    from modist_fast.evaluation.data.labelled import open_labelled

    labelled = open_labelled(LabelledConfig(store=striped, labels=striped / "list.csv"), 4, torch.device("cpu"))
    spec = resolve_views(VIEWS, {})
    order = SampleOrder(np.arange(8), batch_size=4, epochs=1, seed=0)
    world = World(0, 1, 0, torch.device("cpu"))

    def plans(augmentation: TrainingAugmentation) -> list:
        clips = TrainingClips(
            labelled, spec, augmentation, order, seed=0, rank=0, world_size=world.size, device=world.device
        )
        return [clips.plan(epoch, video) for epoch in range(50) for video in range(4)]

    resized = plans(TrainingAugmentation(gray=0.5, color=0.6, flip=0.5))
    shares = [clip.crop[2] * clip.crop[3] / (40 * 48) for clip in resized]
    assert 0.28 <= min(shares) < 0.4
    assert 0.85 < max(shares) <= 1.0
    assert not any(clip.blur_sigma for clip in resized)
    for rate, expected in (
        (np.mean([clip.gray for clip in resized]), 0.5),
        (np.mean([clip.brightness != 1 for clip in resized]), 0.6),
        (np.mean([clip.flip for clip in resized]), 0.5),
    ):
        assert abs(rate - expected) < 0.12
    scaled = plans(TrainingAugmentation(crop="scaled", flip=0.0))
    sides = [clip.crop[2] / 40 for clip in scaled]
    assert {clip.crop[2] == clip.crop[3] for clip in scaled} == {True}
    assert 0.69 <= min(sides) <= max(sides) <= 0.89  # 224 of 320 … 256 pixels
    assert not any(clip.flip or clip.gray or clip.brightness != 1 for clip in scaled)
    # What is seen, not how it is coloured, is the same draw: the frames.
    assert [clip.frames.tolist() for clip in resized] == [clip.frames.tolist() for clip in scaled]

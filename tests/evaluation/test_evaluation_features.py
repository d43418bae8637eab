"""Backbones and features: the same from a run, its export and its checkpoint; nothing twice; damaged videos counted."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from modist_fast.errors import ConfigError
from modist_fast.evaluation.backbones import open_backbone
from modist_fast.evaluation.config import BackboneConfig, FeaturesConfig, LabelledConfig, SplitConfig
from modist_fast.evaluation.data.labelled import LabelledVideos, open_labelled
from modist_fast.evaluation.data.splits import Fold
from modist_fast.evaluation.data.views import ViewsConfig
from modist_fast.evaluation.frozen import features as features_module
from modist_fast.evaluation.frozen import session, tasks
from modist_fast.evaluation.frozen.config import (
    SUFFIXES,
    FrozenConfig,
    KnnConfig,
    KnnEvaluationConfig,
    LbfgsConfig,
    LinearConfig,
    LowShotConfig,
    RetrievalConfig,
)
from modist_fast.evaluation.frozen.plain_videos import FeatureTable, write_features
from modist_fast.evaluation.frozen.session import open_frozen, training_clip
from modist_fast.evaluation.frozen.shape_probe import shape_probabilities
from modist_fast.evaluation.frozen.tasks import run_knn, run_linear, run_lowshot, run_retrieval
from modist_fast.host.distributed import World, join_world
from modist_fast.models.norm import GroupBatchNorm
from modist_fast.models.resnet import Block, ResNet
from modist_fast.run import checkpoint
from modist_pipelines.clips.reader import ClipReader, Request
from modist_pipelines.store.reader import Store, shard_path
from tests.commands.launching import run_script
from tests.commands.test_pretrain import options
from tests.evaluation.evaluation_sets import demo_rows, store_of_pictures, write_list

pytestmark = pytest.mark.slow

RANDOM = BackboneConfig("random", arch="r18", width=8)
VIEWS = ViewsConfig(temporal=2, spatial=1, num_frames=4, stride=4, crop_size=32)


@pytest.fixture
def world() -> Iterator[World]:
    with join_world("cpu") as world:
        yield world


@pytest.fixture(scope="module")
def run(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short pre-training run."""
    path = tmp_path_factory.mktemp("run") / "run"
    done = run_script("pretrain.py", *options(demo_store, path, "--max-steps", 3))
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def labels(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_list(tmp_path_factory.mktemp("labels") / "labels.csv", demo_rows(demo_store))


def config_of(kind: type, store: Path, labels: Path, out: Path, **more: object):
    parts = {
        "network": RANDOM,
        "data": LabelledConfig(store=store, labels=labels),
        "views": VIEWS,
        "features": FeaturesConfig(folder=out / "features", precision="fp32"),
        "device": "cpu",
    }
    return kind(out=out, **{**parts, **more})


def test_run_export_and_checkpoint_give_the_same_features(
    run: Path, demo_store: Path, labels: Path, tmp_path: Path, world: World
) -> None:
    bare = tmp_path / "bare"  # a run that was stopped before its export
    shutil.copytree(run / "checkpoints", bare / "checkpoints", symlinks=True)
    newest = checkpoint.latest(run)
    found, origins, cards = [], [], []
    for number, name in enumerate((run, run / "backbone.safetensors", bare, newest)):
        # Each in a folder of its own, so that nothing is read from where another left it.
        config = config_of(
            FrozenConfig,
            demo_store,
            labels,
            tmp_path / str(number),
            network=BackboneConfig(str(name)),
            views=ViewsConfig(2, 1),
        )
        frozen = open_frozen(config, world)
        found.append(frozen.features)
        origins.append(frozen.backbone.origin.split(":")[0])
        cards.append({key: frozen.backbone.card[key] for key in ("arch", "width", "num_frames", "stride", "crop_size")})
        assert (frozen.spec.num_frames, frozen.spec.crop_size) == (8, 32)
    assert origins == ["exported", "exported", "checkpoint", "checkpoint"]
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert all(cards[0] == other for other in cards[1:])
    assert found[0].std(axis=0).max() > 1e-3


def test_what_is_no_backbone_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "step-00000001.pt").write_bytes(b"no checkpoint")
    for name, words in (
        (tmp_path, "neither backbone.safetensors nor a checkpoint"),
        (tmp_path / "x.safetensors", "does not exist"),
        (tmp_path / "step-00000001.pt", "no checkpoint that can be read"),
        (f"random:{tmp_path}", "no run directory"),
    ):
        with pytest.raises(ConfigError, match=words):
            open_backbone(BackboneConfig(str(name)))
    shaped = open_backbone(BackboneConfig(f"random:{run}"))
    assert (shaped.card["width"], shaped.card["num_frames"]) == (8, 8)


def test_a_random_network_is_random_throughout_and_calibrated(
    demo_store: Path, labels: Path, tmp_path: Path, world: World
) -> None:
    """Its outputs in eval mode are those of a network that normalizes by the statistics of the clips."""
    frozen = open_frozen(config_of(FrozenConfig, demo_store, labels, tmp_path), world)
    net = frozen.backbone.net
    assert isinstance(net, ResNet)
    norms = [module for module in net.modules() if isinstance(module, GroupBatchNorm)]
    assert all(norm.momentum == 0.1 for norm in norms)  # as before
    assert not any((norm.running_var == 1).all() for norm in norms)
    assert all(block.residual[-1].weight.min() == 1 for block in net.modules() if isinstance(block, Block))  # type: ignore[union-attr]
    seen: list[torch.Tensor] = []
    hook = net.stem.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    source = frozen.labelled.source
    with ClipReader(source, frozen.spec.plan_config(source.grid), world.device) as reader:
        train = frozen.folds[0].train.tolist()
        labelled, spec = frozen.labelled, frozen.spec
        plans = {video: [training_clip(labelled, spec, 0, 0, video)] for video in train}
        chosen = [Request(video, int(labelled.rows[video]), plans[video]) for video in train]
        for _, clip in reader.read(chosen):
            assert isinstance(clip, dict)
            net(clip["visual"])
    hook.remove()
    together = torch.cat(seen).transpose(0, 1).flatten(1).double()
    assert net.stem_norm.running_mean is not None
    assert net.stem_norm.running_var is not None
    torch.testing.assert_close(net.stem_norm.running_mean.double(), together.mean(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.stem_norm.running_var.double(), together.var(dim=1), rtol=1e-3, atol=1e-6)
    other = open_backbone(RANDOM, seed=1)
    assert other.digest() != open_backbone(RANDOM, seed=0).digest()
    assert open_backbone(RANDOM, seed=1).digest() == other.digest()


def test_features_are_computed_once_and_belong_to_their_key(
    demo_store: Path, labels: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(FrozenConfig, demo_store, labels, tmp_path)
    first = open_frozen(config, world).features
    computed: list[int] = []
    original = features_module._compute
    monkeypatch.setattr(
        features_module, "_compute", lambda *arguments: (computed.append(len(arguments[4])), original(*arguments))
    )
    assert np.array_equal(open_frozen(config, world).features, first)
    assert computed == []
    folder = next(path for path in (tmp_path / "features").iterdir())
    assert {path.stat().st_mode for path in folder.iterdir()} == {(folder / "key.json").stat().st_mode}
    (folder / "00001.safetensors").unlink()
    assert np.array_equal(open_frozen(config, world).features, first)
    assert computed == [1]
    more = {"views": ViewsConfig(3, 1, num_frames=4, stride=4, crop_size=32)}
    again = open_frozen(config_of(FrozenConfig, demo_store, labels, tmp_path, **more), world).features
    np.testing.assert_allclose(again[:, ::2], first, rtol=1e-4, atol=1e-5)  # starts at 0, 1/2 and 1 instead of 0 and 1
    other = open_frozen(config_of(FrozenConfig, demo_store, labels, tmp_path, seed=1), world).features
    assert np.abs(other - first).max() > 0.1
    assert len(list((tmp_path / "features").iterdir())) == 3


@pytest.fixture
def hurt(demo_store: Path, tmp_path: Path) -> Path:
    """The demo store with a byte wrong in the last frame of a training and of a test video."""
    path = tmp_path / "hurt"
    shutil.copytree(demo_store, path)
    store = Store.open(path)
    for video in (1, 15):
        offset = int(store._offsets["rgb"][video][-2]) + 200
        with shard_path(path, store.shard(video)).open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 0xFF]))
    return path


def test_evaluations_beside_one_another_share_features(
    demo_store: Path, labels: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second kind takes what the first has, and leaves none of its own; one that lacks a shard is no help."""
    default = FeaturesConfig(precision="fp32")
    first = run_knn(config_of(KnnEvaluationConfig, demo_store, labels, tmp_path / "knn", features=default), world)
    assert first["num_test"]
    forward = features_module._forward
    monkeypatch.setattr(features_module, "_forward", None)  # nothing is computed from here on
    run_retrieval(config_of(RetrievalConfig, demo_store, labels, tmp_path / "retrieval", features=default), world)
    assert not (tmp_path / "retrieval" / "features").exists()
    next((tmp_path / "knn").glob("features/*/00001.safetensors")).unlink()
    monkeypatch.setattr(features_module, "_forward", forward)
    run_retrieval(config_of(RetrievalConfig, demo_store, labels, tmp_path / "again", features=default), world)
    assert len(list((tmp_path / "again").glob("features/*/*.safetensors"))) == 2
    assert len(list((tmp_path / "knn").glob("features/*/*.safetensors"))) == 1


def test_damaged_videos_count_as_wrong_or_are_excluded(
    hurt: Path, demo_store: Path, labels: Path, tmp_path: Path, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    names = Store.open(demo_store).videos
    results = {}
    for option in ("wrong", "exclude"):
        data = LabelledConfig(store=hurt, labels=labels, odd_videos=option)
        results[option] = run_knn(
            config_of(KnnEvaluationConfig, hurt, labels, tmp_path / option, data=data, knn=KnnConfig(k=3)), world
        )
    assert f"odd video: {names[1]}" in caplog.text
    for result in results.values():
        assert {row["video"] for row in result["odd"]} == {names[1], names[15]}
        assert all("fails its checksum" in row["reason"] for row in result["odd"])
    wrong, excluded = results["wrong"], results["exclude"]
    assert (wrong["num_test"], wrong["num_odd"], excluded["num_test"], excluded["num_odd"]) == (8, 1, 7, 0)
    assert (wrong["folds"][0]["train"], excluded["folds"][0]["train"]) == (23, 23)
    assert wrong["top1"] * 8 == pytest.approx(excluded["top1"] * 7)
    row = next(row for row in wrong["videos"] if row["video"] == names[15])
    assert (row["predicted"], row["rank"], row["probability"]) == (None, 8, None)
    json.dumps(results)
    retrieved = run_retrieval(config_of(RetrievalConfig, hurt, labels, tmp_path / "wrong"), world)
    assert retrieved["num_test"] == 8
    assert {row["first_hit"] for row in retrieved["videos"] if row["video"] == names[15]} == {32}
    assert retrieved["R@20"] <= 7 / 8


def count(
    passes: Counter[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    name: str,
    videos_of: Callable[..., Iterable[int]],
) -> None:
    """Note under a function's name the videos of each of its calls, told from what it returns and takes."""
    original = getattr(module, name)

    def counting(*arguments: object):
        answer = original(*arguments)
        passes.update((name, int(video)) for video in videos_of(answer, *arguments))
        return answer

    monkeypatch.setattr(module, name, counting)


@pytest.mark.parametrize("planted", [None, "make_folds", "extract", "linear_probabilities"])
def test_a_video_passes_data_features_and_scores_once(
    planted: str | None, hurt: Path, labels: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though two of them turn out damaged on the way. Planted: a part does its work twice, as it once did."""
    passes: Counter[tuple[str, int]] = Counter()

    def of_folds(folds: list[Fold], *_: object) -> np.ndarray:
        return np.concatenate([np.concatenate([fold.train, fold.test]) for fold in folds])

    def of_test(result: object, labelled: LabelledVideos, odd: object, folds: list[Fold], *_: object) -> np.ndarray:
        return np.concatenate([fold.test for fold in folds])

    count(passes, monkeypatch, session, "open_labelled", lambda labelled, *_: range(len(labelled)))
    count(passes, monkeypatch, session, "make_folds", of_folds)
    count(passes, monkeypatch, session, "extract", lambda found, extraction, *_: extraction.videos)
    count(passes, monkeypatch, tasks, "linear_probabilities", lambda found, frozen, config, fitted, test: test)
    count(passes, monkeypatch, tasks, "classification", of_test)
    if planted is not None:
        module = session if hasattr(session, planted) else tasks
        counting = getattr(module, planted)
        monkeypatch.setattr(module, planted, lambda *arguments: (counting(*arguments), counting(*arguments))[1])
    result = run_linear(
        config_of(LinearConfig, hurt, labels, tmp_path / "out", data=LabelledConfig(store=hurt, labels=labels)), world
    )
    assert (result["num_odd"], result["folds"][0]["train"]) == (1, 23)
    everyone, tested = range(32), [row["video"] for row in result["videos"]]
    names = Store.open(hurt).videos
    expected = {
        "open_labelled": everyone,
        "make_folds": everyone,
        "extract": everyone,
        "linear_probabilities": [names.index(name) for name in tested if name != names[15]],
        "classification": [names.index(name) for name in tested],
    }
    for name, videos in expected.items():
        times = {video: passes[name, video] for video in everyone}
        assert times == {video: (1 + (name == planted)) * (video in videos) for video in everyone}, name


def test_what_opening_found_stays_what_it_is(
    hurt: Path, labels: Path, tmp_path: Path, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    listed = labels.read_text() + "bounce/absent.mp4,bounce,g3,test\n"
    labels = tmp_path / "labels.csv"
    labels.write_text(listed)
    frozen = open_frozen(config_of(FrozenConfig, hurt, labels, tmp_path), world)
    places = {name: place for place, name in enumerate(frozen.labelled.names)}
    names = Store.open(hurt).videos
    assert set(frozen.labelled.odd) == {places["bounce/absent.mp4"]}
    assert set(frozen.odd) == {places["bounce/absent.mp4"], places[names[1]], places[names[15]]}
    (whole,), (counts,) = frozen.folds, frozen.counted()
    assert (len(whole.train), len(counts.train), len(whole.test), len(counts.test)) == (24, 23, 9, 9)
    assert caplog.text.count("odd video: ") == 3


def test_retrieval_and_knn_agree(demo_store: Path, labels: Path, tmp_path: Path, world: World) -> None:
    """The nearest video is of the right class just where a vote of one is right."""
    split = SplitConfig(protocol="leave-one-group-out")
    nearest = run_knn(
        config_of(KnnEvaluationConfig, demo_store, labels, tmp_path, split=split, knn=KnnConfig(k=1)), world
    )
    retrieved = run_retrieval(config_of(RetrievalConfig, demo_store, labels, tmp_path, split=split), world)
    assert retrieved["R@1"] == pytest.approx(nearest["top1"])
    assert retrieved["R@1"] <= retrieved["R@5"] <= retrieved["R@10"] <= retrieved["R@20"]
    hits = {row["video"]: row["first_hit"] == 0 for row in retrieved["videos"]}
    assert hits == {row["video"]: row["rank"] == 0 for row in nearest["videos"]}


def test_features_beside_the_nets_count_and_replace_them_where_they_stand_alone(
    demo_store: Path, labels: Path, tmp_path: Path, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that knows the class is right where it stands alone; one video that it lacks is odd."""
    truth = {str(row["path"]): str(row["label"]) for row in demo_rows(demo_store)}
    classes, names = sorted(set(truth.values())), list(truth)
    lacking = next(str(row["path"]) for row in demo_rows(demo_store) if row["split"] == "test")
    kept = [name for name in reversed(names) if name != lacking]
    known = np.eye(len(classes), dtype=np.float32)[[classes.index(truth[name]) for name in kept]]
    table = FeatureTable(kept, np.zeros((len(kept), 2, 2)), np.stack([known - 1, known + 1], axis=1), {})
    plain = run_linear(config_of(LinearConfig, demo_store, labels, tmp_path), world)
    for suffix in SUFFIXES:
        write_features(table, tmp_path / f"known{suffix}", {})
        more = {"beside": tmp_path / f"known{suffix}", "lbfgs": LbfgsConfig(c=1.0)}
        both = run_linear(config_of(LinearConfig, demo_store, labels, tmp_path, **more), world)
        alone = run_linear(config_of(LinearConfig, demo_store, labels, tmp_path, beside_alone=True, **more), world)
        for result in (both, alone):
            assert result["num_odd"] == 1
            assert [row["video"] for row in result["odd"]] == [lacking]
        assert {row["video"] for row in alone["videos"] if row["rank"] > 0} == {lacking}
        assert plain["top1"] < both["top1"] <= alone["top1"]
        assert both["videos"] != alone["videos"]
    assert "1 videos are not in" in caplog.text
    assert not (tmp_path / "linear.safetensors").exists()
    strangers = table._replace(names=[f"other/{name}" for name in kept])
    write_features(strangers, tmp_path / "strangers.parquet", {})
    (tmp_path / "text.parquet").write_text("video,features")
    for name, words in (("strangers.parquet", "has no video of these labels"), ("text.parquet", "Give a file of")):
        with pytest.raises(ConfigError, match=words):
            run_linear(config_of(LinearConfig, demo_store, labels, tmp_path, beside=tmp_path / name), world)
    for refused in ({"beside_alone": True}, {"beside": tmp_path / "known.parquet", "augmented_views": 2}):
        with pytest.raises(ConfigError, match="leave"):
            run_linear(config_of(LinearConfig, demo_store, labels, tmp_path, **refused), world)


def test_low_shot_ends_where_linear_is(demo_store: Path, labels: Path, tmp_path: Path, world: World) -> None:
    whole = run_linear(config_of(LinearConfig, demo_store, labels, tmp_path), world)
    config = config_of(LowShotConfig, demo_store, labels, tmp_path, shares=(1.0, 0.01, 0.5), subsets=2)
    few = run_lowshot(config, world)
    drawn = [(row["share"], row["subset"], row["num_train"]) for row in few["rows"]]
    assert drawn == [(0.01, 0, 8), (0.01, 1, 8), (0.5, 0, 16), (0.5, 1, 16), (1.0, 0, 24)]
    assert few["rows"][-1]["top1"] == whole["top1"]
    assert few["rows"][-1]["videos"] == whole["videos"]
    assert few["rows"][0]["videos"] != few["rows"][1]["videos"]


@pytest.mark.parametrize("recipe", ["lbfgs", "sgd"])
def test_augmented_views_train_and_test_views_test(
    demo_store: Path, labels: Path, tmp_path: Path, world: World, recipe: str
) -> None:
    plain = config_of(LinearConfig, demo_store, labels, tmp_path, recipe=recipe)
    augmented = config_of(LinearConfig, demo_store, labels, tmp_path, recipe=recipe, augmented_views=3)
    results = [run_linear(config, world) for config in (plain, augmented)]
    assert results[0]["videos"] != results[1]["videos"]
    keys = [json.loads((path / "key.json").read_text()) for path in (tmp_path / "features").iterdir()]
    assert sorted(key["plan"] for key in keys) == ["3 augmented, seed 0", "test"]


def test_a_planted_shape_is_told(tmp_path: Path, world: World) -> None:
    """Videos whose class is the shape of their frames: the probe on shapes alone says so, and by which cue."""
    sizes = {f"{n}.avi": [(40, 32), (60, 32), (32, 50)][n % 3] for n in range(30)}
    store = store_of_pictures(tmp_path / "s", dict.fromkeys(sizes, 0), sizes)
    listed = [{"path": name, "label": n % 3, "fair": (n // 3) % 2} for n, name in enumerate(sizes)]
    for column, low, high in (("label", 0.99, 1), ("fair", 0, 0.7)):
        data = LabelledConfig(store=store, labels=write_list(tmp_path / "l.csv", listed), label_column=column)
        labelled = open_labelled(data, 4, world.device)
        train, test = np.arange(18), np.arange(18, 30)
        found = shape_probabilities(labelled, train, test).argmax(axis=1)
        assert low <= (found == labelled.labels[test]).mean() <= high
        if column == "label":  # the widths are three as well, the lengths are one
            for cue, least, most in (("width", 0.99, 1), ("length", 0, 0.7)):
                found = shape_probabilities(labelled, train, test, [cue]).argmax(axis=1)
                assert least <= (found == labelled.labels[test]).mean() <= most

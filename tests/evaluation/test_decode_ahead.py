"""While the net works on clips the next ones are decoded: the net waits for that, for ever if nothing did it."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modist_fast.evaluation.config import BackboneConfig, FeaturesConfig, LabelledConfig
from modist_fast.evaluation.data.views import ViewsConfig, resolve_views
from modist_fast.evaluation.frozen import features
from modist_fast.evaluation.frozen.config import FrozenConfig
from modist_fast.evaluation.frozen.session import open_frozen
from modist_fast.gradcam import run as gradcam
from modist_fast.gradcam.config import GradCamConfig
from modist_fast.gradcam.paired import PairedClips
from modist_fast.gradcam.run import run_gradcam
from modist_fast.host.distributed import World, join_world
from modist_pipelines.clips import reader
from modist_pipelines.clips.decoder import ClipDecoder
from modist_pipelines.store.reader import Store
from tests.evaluation.evaluation_sets import demo_rows, write_list

pytestmark = pytest.mark.slow

NUM_VIDEOS = 32
PARTS: dict[str, Any] = {
    "network": BackboneConfig("random", arch="r18", width=8),
    "views": ViewsConfig(temporal=1, spatial=1, num_frames=4, stride=4, crop_size=32),
    "device": "cpu",
}


class Net:
    """Stands before a net: lets a call through once the next clips are decoded, or there are no more."""

    patience = 120.0  # seconds; only a test that fails waits so long

    def __init__(self) -> None:
        self._decoded, self._changed = 0, threading.Condition()

    def decoded(self) -> None:
        with self._changed:
            self._decoded += 1
            self._changed.notify_all()

    def wait(self, num: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._decoded >= num, self.patience), "nothing decodes meanwhile"


@pytest.fixture
def world() -> Iterator[World]:
    with join_world("cpu") as world:
        yield world


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    net, decode = Net(), ClipDecoder.decode

    def counted(self: ClipDecoder, clips: Any) -> Any:
        answer = decode(self, clips)
        if self.kind == "visual":
            net.decoded()
        return answer

    monkeypatch.setattr(ClipDecoder, "decode", counted)
    return net


@pytest.fixture
def labels(demo_store: Path, tmp_path: Path) -> Path:
    return write_list(tmp_path / "labels.csv", demo_rows(demo_store))


def one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was: whoever takes the clips decodes them."""
    monkeypatch.setattr(reader, "ahead", lambda items, **options: items)


def features_of(store: Path, labels: Path, out: Path, world: World) -> np.ndarray:
    kept = FeaturesConfig(folder=out / "features", batch_size=4, precision="fp32")
    config = FrozenConfig(out=out, data=LabelledConfig(store=store, labels=labels), features=kept, **PARTS)
    return open_frozen(config, world).features


def test_features(
    demo_store: Path, labels: Path, tmp_path: Path, world: World, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, compute = features._forward, features._compute
    passed: list[int] = []

    def waiting(*arguments: Any) -> torch.Tensor:
        passed.append(len(arguments[1]))
        net.wait(min(sum(passed) + 1, NUM_VIDEOS))
        return forward(*arguments)

    def from_zero(*arguments: Any) -> None:
        passed.clear()
        net._decoded = 0  # the clips that calibrate a random net are decoded before
        compute(*arguments)

    monkeypatch.setattr(features, "_compute", from_zero)
    with monkeypatch.context() as plain:
        one_after_the_other(plain)
        expected = features_of(demo_store, labels, tmp_path / "plain", world)
        plain.setattr(features, "_forward", waiting)
        plain.setattr(net, "patience", 0.1)
        with pytest.raises(AssertionError, match="nothing decodes meanwhile"):
            features_of(demo_store, labels, tmp_path / "fault", world)
    monkeypatch.setattr(features, "_forward", waiting)
    found = features_of(demo_store, labels, tmp_path / "ahead", world)
    assert passed == [4] * (NUM_VIDEOS // 4)
    assert np.array_equal(found, expected)


def test_gradcam(
    demo_store: Path, labels: Path, tmp_path: Path, world: World, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, cam, asked, found = PairedClips.read, gradcam._cam, [], []

    def from_zero(self: PairedClips, requests: Any) -> Any:
        asked[:] = list(requests)
        found.append([])
        net._decoded = 0
        return read(self, asked)

    def noted(*arguments: Any) -> torch.Tensor:
        found[-1].append(cam(*arguments))
        return found[-1][-1]

    def waiting(*arguments: Any) -> torch.Tensor:
        net.wait(min(len(found[-1]) + 2, len(asked)))
        return noted(*arguments)

    def run(name: str) -> list[list[torch.Tensor]]:
        found.clear()
        config = GradCamConfig(
            out=tmp_path / name,
            data=LabelledConfig(store=demo_store, labels=labels),
            features=FeaturesConfig(folder=tmp_path / "features", precision="fp32"),
            num_filmed=1,
            **PARTS,
        )
        run_gradcam(config, world)
        return [*found]

    monkeypatch.setattr(PairedClips, "read", from_zero)
    with monkeypatch.context() as plain:
        one_after_the_other(plain)
        plain.setattr(gradcam, "_cam", noted)
        expected = run("plain")
        plain.setattr(gradcam, "_cam", waiting)
        plain.setattr(net, "patience", 0.1)
        with pytest.raises(AssertionError, match="nothing decodes meanwhile"):
            run("fault")
    monkeypatch.setattr(gradcam, "_cam", waiting)
    for ours, theirs in zip(run("ahead"), expected, strict=True):  # the test clips, then those of the film
        assert len(ours) > 1
        assert all(map(torch.equal, ours, theirs))


def test_a_reader_that_is_closed_in_mid_reading_ends_its_threads(demo_store: Path) -> None:
    store = Store.open(demo_store)
    spec = resolve_views(PARTS["views"], {})
    clips = PairedClips(store, spec)
    reading = clips.read((row, clips.middle(row)) for row in range(NUM_VIDEOS))
    next(reading)
    with pytest.raises(RuntimeError, match="one list of requests at a time"):
        next(clips.read([(0, clips.middle(0))]))
    clips.close()
    assert not any(thread.name.startswith(("decode-ahead", "read")) for thread in threading.enumerate())


def test_an_error_comes_at_its_place(demo_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, calls = ClipDecoder.decode, []

    def failing(self: ClipDecoder, given: Any) -> Any:
        calls.append(self.kind)
        if calls.count("visual") == 3:
            raise OSError("the decoder is gone")
        return decode(self, given)

    monkeypatch.setattr(ClipDecoder, "decode", failing)
    clips = PairedClips(Store.open(demo_store), resolve_views(PARTS["views"], {}))
    reading = clips.read((row, clips.middle(row)) for row in range(NUM_VIDEOS))
    assert all(next(reading).visual.isfinite().all() for _ in range(2))
    with pytest.raises(OSError, match="the decoder is gone"):
        next(reading)
    clips.close()

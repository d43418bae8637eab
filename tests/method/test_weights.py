"""Weights of other people: look-alikes of their files, made of random numbers under the names of their public code."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from test_weights_names import scrambled
from torch import Tensor, nn
from torch.nn import functional as F

import modist_fast
from modist_fast.errors import ConfigError
from modist_fast.evaluation.backbones import open_backbone
from modist_fast.evaluation.config import BackboneConfig
from modist_fast.models import build_visual
from modist_fast.run.export import export_backbone, load_backbone
from modist_fast.weights.names import PYSLOWFAST, PYTORCHVIDEO
from modist_fast.weights.reading import read_weights
from modist_fast.weights.writing import write_weights

CARD = {"arch": "r18", "width": 8, "crop_size": 32, "num_frames": 4, "stride": 8, "mean": 0.45, "std": 0.225}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def slow(clips: Tensor, state: dict[str, Tensor], stem_stride: int) -> Tensor:
    """The paper's Table 1 written down with PySlowFast's names: (B, 3, T, H, W) to (B, D)."""

    def norm(x: Tensor, name: str) -> Tensor:
        found = [state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
        mean, var, weight, bias = (one.view(1, -1, 1, 1, 1) for one in found)
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def conv(x: Tensor, name: str, stride: tuple[int, int, int]) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv3d(x, weight, None, stride, tuple(size // 2 for size in weight.shape[2:]))

    x = conv(clips, "s1.pathway0_stem.conv", (stem_stride, 2, 2))
    x = F.max_pool3d(F.relu(norm(x, "s1.pathway0_stem.bn")), (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for stage, depth in enumerate((3, 4, 6, 3), start=2):
        for block in range(depth):
            name, stride = f"s{stage}.pathway0_res{block}", 2 if stage > 2 and block == 0 else 1
            y = F.relu(norm(conv(x, f"{name}.branch2.a", (1, 1, 1)), f"{name}.branch2.a_bn"))
            y = F.relu(norm(conv(y, f"{name}.branch2.b", (1, stride, stride)), f"{name}.branch2.b_bn"))
            y = norm(conv(y, f"{name}.branch2.c", (1, 1, 1)), f"{name}.branch2.c_bn")
            if block == 0:
                x = norm(conv(x, f"{name}.branch1", (1, stride, stride)), f"{name}.branch1_bn")
            x = F.relu(x + y)
    return x.mean(dim=(2, 3, 4))


def random_r50(kernel: int) -> dict[str, Tensor]:
    """A Slow R50 of width 8 under PySlowFast's names, conv1 of this many frames."""
    state = PYSLOWFAST.theirs(scrambled("r50", width=8).state_dict())
    state["s1.pathway0_stem.conv.weight"] = (
        torch.randn(8, 3, kernel, 7, 7, generator=torch.Generator().manual_seed(5)) / 9
    )
    return state


def authors_file(path: Path) -> dict[str, Tensor]:
    """As the authors' release: both encoders, their heads, the banks, an optimizer and the configuration as text."""
    state = random_r50(5)
    model = {f"encoder_q.{name}": tensor for name, tensor in state.items()}
    model |= {f"encoder_k.{name}": torch.zeros_like(tensor) for name, tensor in state.items()}
    model |= {"encoder_q.head.projection.0.weight": torch.zeros(4, 256), "queue_x": torch.zeros(128, 4)}
    torch.save({"epoch": 599, "model_state": model, "optimizer_state": {}, "cfg": "TRAIN: ..."}, path)
    return state


def test_the_authors_file_is_the_net_of_the_papers_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = authors_file(tmp_path / "maclr.pyth")
    caplog.set_level("INFO", logger="modist")
    opened = open_backbone(BackboneConfig(str(tmp_path / "maclr.pyth")))
    clips = torch.randn(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    wanted = slow(clips, {name: tensor.double() for name, tensor in state.items()}, stem_stride=2)
    with torch.no_grad():
        torch.testing.assert_close(opened.net.double()(clips), wanted, rtol=1e-9, atol=1e-9)
    assert opened.card["arch"] == "r50"
    said = "left out, as no part of the backbone: encoder_k (320), queue_x (1), encoder_q.head (1)"
    assert said.replace("320", str(len(state))) in caplog.text


@pytest.mark.parametrize("library", ["pyslowfast", "pytorchvideo", "plain"])
def test_slow_r50_takes_every_frame(tmp_path: Path, library: str) -> None:
    state, path = random_r50(1), tmp_path / "SLOW_8x8_R50.pyth"
    if library == "pytorchvideo":
        with torch.device("meta"):
            ours = build_visual("slow-r50", 8).state_dict()
        held = {PYTORCHVIDEO.rename(name): state[PYSLOWFAST.rename(name)] for name in ours}
        torch.save({"model_state": held | {"blocks.5.proj.weight": torch.zeros(400, 256)}}, path)
    else:
        torch.save(state if library == "plain" else {"model_state": state}, path)
    found = read_weights(path)
    clips = torch.randn(1, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    wanted = slow(clips, {name: tensor.double() for name, tensor in state.items()}, stem_stride=1)
    with torch.no_grad():
        torch.testing.assert_close(found.net.double()(clips), wanted, rtol=1e-9, atol=1e-9)
    assert (found.card["arch"], found.card["width"]) == ("slow-r50", 8)
    assert found.left_out == ({"blocks": 1} if library == "pytorchvideo" else {})


def pictures_net(make: Callable[..., nn.Module]) -> nn.Module:
    """A net of pictures whose batch norm statistics are those of no other."""
    torch.manual_seed(0)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return net


def still_clip(frames: int) -> tuple[Tensor, Tensor]:
    """A picture as a net of ImageNet takes it, and as a still clip of ours."""
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    mean, std = (torch.tensor(values).double().view(3, 1, 1) for values in IMAGENET)
    return (picture - mean) / std, ((picture - 0.45) / 0.225)[:, :, None].expand(-1, -1, frames, -1, -1)


def moco(net: nn.Module) -> dict[str, object]:
    state = net.state_dict()
    held = {f"module.encoder_q.{name}": tensor for name, tensor in state.items()}
    held |= {f"module.encoder_k.{name}": tensor * 0 for name, tensor in state.items()}
    return {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": held | {"module.queue": torch.zeros(128, 8)},
        "optimizer": {},
    }


@pytest.mark.parametrize(
    ("make", "pack", "arch", "left_out"),
    [
        (torchvision.models.resnet18, nn.Module.state_dict, "imagenet-r18", {"fc": 2}),
        (lambda: timm.create_model("resnet50"), nn.Module.state_dict, "imagenet-r50", {"fc": 2}),
        (
            torchvision.models.resnet18,
            moco,
            "imagenet-r18",
            {"module.encoder_k": 122, "module.queue": 1, "module.encoder_q.fc": 2},
        ),
    ],
    ids=["torchvision", "timm", "moco"],
)
def test_a_net_of_pictures_sees_a_still_clip_as_its_picture(
    tmp_path: Path, make: Callable[..., nn.Module], pack: Callable[[nn.Module], object], arch: str, left_out: dict
) -> None:
    net = pictures_net(make)
    torch.save(pack(net), tmp_path / "weights.pth.tar")
    net.fc = nn.Identity()
    picture, clip = still_clip(4)
    with torch.no_grad():
        wanted = net.double()(picture)
        found = read_weights(tmp_path / "weights.pth.tar", "centre")
        torch.testing.assert_close(found.net.double()(clip), wanted, rtol=1e-6, atol=1e-6)
        assert (found.card["arch"], found.left_out) == (arch, left_out)
        # As I3D does it the ends in time get less; far from them, what counts is the same.
        mean = read_weights(tmp_path / "weights.pth.tar", "mean").net.double()
        assert (mean(clip) - wanted).abs().max() > 1e-2
        if arch == "imagenet-r18":
            middle = mean.feature_map(still_clip(64)[1])[:, :, 16]
            torch.testing.assert_close(middle.mean(dim=(2, 3)), wanted, rtol=1e-6, atol=1e-6)


def test_of_two_nets_without_an_order_none_is_taken(tmp_path: Path) -> None:
    state = PYSLOWFAST.theirs(scrambled("r18", width=4).state_dict())
    both = {f"{side}.{name}": tensor for side in ("left", "right") for name, tensor in state.items()}
    torch.save(both, tmp_path / "two.pth")
    with pytest.raises(ConfigError, match=r"several networks: left\., right\."):
        read_weights(tmp_path / "two.pth")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    path, state = tmp_path / "other.pth", PYSLOWFAST.theirs(scrambled("r18", width=4).state_dict())
    state["s3.pathway0_res0.branch1.weight"] = torch.zeros(16, 9, 1, 1, 1)
    del state["s4.pathway0_res1.branch2.a_bn.bias"]
    torch.save({f"encoder_q.{name}": tensor for name, tensor in state.items()}, path)
    words = r"encoder_q\.s3\.pathway0_res0\.branch1\.weight is \(16, 9, 1, 1, 1\) where \(8, 4, 1, 1, 1\) is wanted"
    with pytest.raises(ConfigError, match=words + r".*lacks encoder_q\.s4\.pathway0_res1\.branch2\.a_bn\.bias"):
        read_weights(path)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    with pytest.raises(ConfigError, match=r"no residual network by .* its tensors are features\.0\.weight"):
        read_weights(path)
    torch.save({"state_dict": torchvision.models.resnet18().state_dict(), "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(ConfigError, match="Python objects beside tensors"):
        read_weights(path)
    state = torchvision.models.resnet18().state_dict()
    state["layer2.0.conv1.weight"][0, 0] = torch.nan
    torch.save(state, path)
    with pytest.raises(ConfigError, match=r"not finite in 1 of .* stages\.res3\.0\.residual\.conv_a\.weight"):
        read_weights(path)
    for content in (b"", b"PK\x03\x04 cut", b"\x80\x02cos\nsystem\n"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=str(path)):
            read_weights(path)


@pytest.mark.parametrize(
    ("arch", "to", "suffix"),
    [
        ("r18", "modist", ".safetensors"),
        ("r50", "pyslowfast", ".pyth"),
        ("slow-r50", "pytorchvideo", ".pyth"),
        ("r18", "huggingface", ""),
    ],
)
def test_round_trips_of_files(tmp_path: Path, arch: str, to: str, suffix: str) -> None:
    net, card = scrambled(arch, width=8), CARD | {"arch": arch}
    out = tmp_path / f"out{suffix}"
    write_weights(net, card, out, to)  # pyright: ignore[reportArgumentType]
    if to == "huggingface":
        from modist_fast.weights.hub import HubBackbone

        hub = HubBackbone.from_pretrained(out, local_files_only=True)
        assert (hub.card, hub.training) == (card, False)
        back = hub.backbone
    else:
        back = open_backbone(BackboneConfig(str(out))).net
    assert not {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, back.state_dict()[name])}
    modes = {path.stat().st_mode for path in (out.iterdir() if out.is_dir() else tmp_path.iterdir())}
    assert len(modes) == 1, "as the umask has them, weights and words alike"


def test_a_net_of_clips_as_one_of_pictures(tmp_path: Path) -> None:
    """Inflated again by the mean it is a net that treats a still clip, away from its ends, as the first one did."""
    net = scrambled("r18", width=64)
    write_weights(net, CARD | {"width": 64}, tmp_path / "flat.pth", "torchvision")
    flat = torchvision.models.resnet18()
    missing = flat.load_state_dict(torch.load(tmp_path / "flat.pth", weights_only=True), strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    flat.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    clip = still_clip(64)[1]
    with torch.no_grad():
        middle = net.double().feature_map(clip)[:, :, 16].mean(dim=(2, 3))
        torch.testing.assert_close(flat.double().eval()(clip[:, :, 0]), middle, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_graphs_give_what_the_net_gives_for_any_batch(tmp_path: Path, to: str) -> None:
    net, out = scrambled("r18", width=8), tmp_path / ("net.onnx" if to == "onnx" else "net.pt2")
    write_weights(net, CARD, out, to)  # pyright: ignore[reportArgumentType]
    for batch in (1, 3):
        clips = torch.randn(batch, 3, 4, 32, 32)
        if to == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(out)
            found = torch.from_numpy(np.asarray(session.run(["features"], {"clips": clips.numpy()})[0]))
            assert json.loads(session.get_modelmeta().custom_metadata_map["card"]) == CARD
        else:
            found = torch.export.load(out).module()(clips)
        with torch.no_grad():
            wanted = net(clips)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_what_a_format_does_not_have_is_refused(tmp_path: Path) -> None:
    net = scrambled("r18", width=8)
    for to, name, words in (
        ("pytorchvideo", "net.pyth", "no network like r18, only one like r50, slow-r50"),
        ("onnx", "net.pth", r"give a file of onnx the suffix \.onnx"),
        ("modist", "absent/net.safetensors", "the folder .*absent is not there"),
    ):
        with pytest.raises(ConfigError, match=words):
            write_weights(net, CARD, tmp_path / name, to)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="the card does not say num_frames"):
        write_weights(net, {"arch": "r18", "width": 8, "crop_size": 32}, tmp_path / "net.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_torch_hub_from_a_checkout(tmp_path: Path) -> None:
    net = scrambled("r18", width=8)
    export_backbone(net, tmp_path / "backbone.safetensors", CARD)
    root = str(Path(modist_fast.__file__).parents[1])
    hub = torch.hub.load(root, "backbone", str(tmp_path / "backbone.safetensors"), source="local")
    clips = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(hub(clips), load_backbone(tmp_path / "backbone.safetensors")(clips))  # type: ignore[operator]
    assert torch.hub.load(root, "untrained", "r18", 8, source="local").num_features == 64  # type: ignore[union-attr]

"""Every net of the table through the protocol; the ViT against torch's own blocks and plain sums."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from small_runs import noise, small_config
from torch import nn

import modist_fast
from modist_fast.config import ModelConfig
from modist_fast.errors import ConfigError
from modist_fast.evaluation.backbones import open_backbone
from modist_fast.evaluation.config import BackboneConfig
from modist_fast.evaluation.data.views import ViewsConfig
from modist_fast.evaluation.finetune.classifier import Classifier
from modist_fast.gradcam.cam import grad_cam
from modist_fast.groups import groups_in_a_pass
from modist_fast.host.choices import Arch
from modist_fast.host.distributed import join_world
from modist_fast.models import BACKBONES, build_motion, build_visual
from modist_fast.models.vit import VisionTransformer, vit_s16
from modist_fast.pathways import Pathways
from modist_fast.presets import demo
from modist_fast.run.export import export_backbone
from modist_fast.step import TrainingStep, check_clips

ARCHS = list(BACKBONES)


def small(arch: str):
    torch.manual_seed(0)
    net = build_visual(arch, 4)
    net.scale_residuals(1.0)
    return net


def test_the_options_offer_the_table() -> None:
    assert list(get_args(Arch)) == ARCHS


def test_an_unknown_arch_names_those_there_are() -> None:
    for build in (build_visual, build_motion):
        with pytest.raises(ConfigError, match=r"arch 'vit-s61': one of r50, r18, vit-s16.*Did you mean vit-s16\?"):
            build("vit-s61")


def test_no_other_code_asks_for_names() -> None:
    """A name in quotes outside the table, the options, the presets and what names other libraries' nets would be a test
    for it; `weights` knows which nets they have, and a rehearsal asks for a small one.
    """
    root = Path(modist_fast.__file__).parent
    allowed = {"table.py", "choices.py", "presets.py", "resnet.py"}
    for path in root.rglob("*.py"):
        if path.name not in allowed and path.parent.name not in ("weights", "reproduce"):
            code = "\n".join(
                line for line in path.read_text(encoding="utf-8").splitlines() if "arch" in line and ('"' in line)
            )
            assert not any(f'"{arch}"' in code.replace('Arch = "r50"', "") for arch in ARCHS), path


@pytest.mark.parametrize("arch", ARCHS)
def test_features_are_the_mean_of_a_map_that_moves_with_the_clip(arch: str) -> None:
    """Its side is the clip's over the output stride, and what is changed in a corner is seen most in that corner."""
    net = small(arch).double().eval()
    clips = torch.rand(2, 3, 8, 96, 96, dtype=torch.float64)
    changed = clips.clone()
    changed[:, :, :, -net.output_stride :, -net.output_stride :] += 1.0
    with torch.no_grad():
        before, after, features = net.feature_map(clips), net.feature_map(changed), net(clips)
    assert before.shape[1] == net.num_features
    assert before.shape[3] == before.shape[4] == 96 // net.output_stride
    for sample in range(2):
        for channel in range(0, net.num_features, 7):
            places = [float(value) for value in before[sample, channel].flatten()]
            assert float(features[sample, channel]) == pytest.approx(sum(places) / len(places), rel=1e-6, abs=1e-9)
    moved = (after - before).abs().mean(dim=(0, 1, 2))
    assert moved.argmax() == moved.numel() - 1


@pytest.mark.parametrize("arch", ARCHS)
def test_parts_hold_every_parameter_once_and_freeze_in_order(arch: str) -> None:
    net = small(arch)
    parts = net.parts()
    held = [id(p) for modules in parts.values() for module in modules for p in module.parameters()]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    names = list(parts)
    for last in ("none", names[0], names[2], names[-1], "all"):
        model = Classifier(small(arch), 3, frozen=last)
        model.train()
        optimizer = torch.optim.SGD(model.training_parts().parameters(), lr=0.5)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model(torch.rand(3, 3, 8, 32, 32)).square().sum().backward()
        optimizer.step()
        num = len(names) if last == "all" else ["none", *names].index(last)
        still = {id(p) for name in names[:num] for module in model.backbone.parts()[name] for p in module.parameters()}
        for name, parameter in model.named_parameters():
            is_same = torch.equal(parameter, before[name])
            assert is_same or id(parameter) not in still, name
            if parameter.ndim > 1 and name != "backbone.stem.positions":
                assert is_same == (id(parameter) in still), name
    with pytest.raises(ConfigError, match=f"--frozen res9: name one .* parts \\({names[0]}, {names[1]}"):
        Classifier(small(arch), 3, frozen="res9")


@pytest.mark.parametrize("arch", ARCHS)
def test_export_and_back(arch: str, tmp_path: Path) -> None:
    """Through the file, the card, and a random network shaped as the file's."""
    net = small(arch).eval()
    card = {
        "arch": arch,
        "width": 4,
        "crop_size": 32,
        "num_frames": 8,
        "stride": 4,
        "mean": [0.4],
        "std": [0.2],
    }
    path = tmp_path / "backbone.safetensors"
    export_backbone(net, path, card)
    loaded = modist_fast.load_backbone(path)
    clips = torch.rand(2, 3, 8, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(clips), net(clips))
    opened = open_backbone(BackboneConfig(f"random:{path}"), seed=3)
    assert opened.net.state_dict().keys() == net.state_dict().keys()
    assert type(opened.net) is type(net)


@pytest.mark.parametrize("arch", ARCHS)
def test_grad_cam_is_the_class_weights_on_the_map(arch: str) -> None:
    net, head = small(arch).eval(), nn.Linear(small(arch).num_features, 3)
    clips = torch.rand(1, 3, 8, 64, 64)
    found = grad_cam(net, head, clips, torch.tensor([2]))[0]
    with torch.no_grad():
        features = net.feature_map(clips)[0]
    expected = torch.zeros_like(features[0])
    for channel in range(len(features)):
        expected += head.weight[2, channel].detach() * features[channel] / features[0].numel()
    torch.testing.assert_close(found, expected.relu(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("arch", ARCHS[2:])  # of the others in test_golden.py and test_batch_norm.py
def test_groups_in_one_pass_are_groups_in_turn(arch: str) -> None:
    """A step with ShuffleBN, momentum nets and banks; afterwards every weight is the same, and the queries learned."""
    base, motion = small_config(2), arch != "vit-s16"  # a ViT alone: no batch norm in the backbones
    base = replace(
        base,
        batch_size=8,
        group_size=4,
        model=replace(base.model, arch=arch),  # pyright: ignore[reportArgumentType]
        objective=replace(base.objective, motion=motion),
    )
    states = []
    with join_world("cpu") as world:
        for together in (1, 2):
            step = TrainingStep(replace(base, groups_together=together), world)
            before = {name: weight.clone() for name, weight in step.model.online.named_parameters()}
            for number in range(2):  # before the second the bank is empty, and nothing is learned
                clips = noise(base, number)
                figures = step(clips if motion else replace(clips, motion_query=None, motion_key=None), 0.01)
            assert figures["loss"].isfinite()
            changed = [not torch.equal(weight, before[name]) for name, weight in step.model.online.named_parameters()]
            assert sum(changed) > 0.5 * len(changed)  # weight decay alone changes a third
            states.append(step.model.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=2e-3, atol=2e-4, msg=lambda text: f"{name}: {text}")  # noqa: B023


def test_a_vit_is_torchs_blocks_on_patches() -> None:
    """Against sums over pixels for a token, positions as they are, and the twelve layers called by hand, in float64."""
    torch.manual_seed(0)
    net = vit_s16(width=2).double().train()
    clips = torch.randn(1, 3, 4, 32, 48, dtype=torch.float64)
    weight, bias = net.stem.project.weight, net.stem.project.bias
    assert bias is not None
    nn.init.normal_(bias)
    positions = nn.functional.interpolate(net.stem.positions, (2, 2, 3), mode="trilinear")
    tokens = []
    for t in range(2):
        for y in range(2):
            for x in range(3):
                pixels = clips[0, :, 2 * t : 2 * t + 2, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
                tokens.append((weight * pixels).sum(dim=(1, 2, 3, 4)) + bias + positions[0, :, t, y, x])
    sequence = torch.stack(tokens)[None]
    for block in net.blocks:
        assert isinstance(block, nn.TransformerEncoderLayer)
        normed = block.norm1(sequence)
        attended = block.self_attn(normed, normed, normed, need_weights=True)[0]
        sequence = sequence + attended
        hidden = block.linear1(block.norm2(sequence))
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
        sequence = sequence + block.linear2(hidden)
    expected = net.norm(sequence).mean(dim=1)
    torch.testing.assert_close(net(clips), expected, rtol=1e-10, atol=1e-10)


def test_a_vit_has_the_parameters_of_vit_s() -> None:
    """timm's vit_small_patch16_224 without class token and classifier, for two frames a patch and 4 × 14² positions."""
    dim = 384
    block = (3 * dim * dim + 3 * dim) + (dim * dim + dim) + 2 * (4 * dim * dim) + 4 * dim + dim + 4 * dim
    expected = 12 * block + 2 * dim + (3 * 2 * 16 * 16 * dim + dim) + 4 * 14 * 14 * dim
    with torch.device("meta"):
        assert sum(p.numel() for p in build_visual("vit-s16").parameters()) == expected == 22_185_600


def test_positions_lie_at_their_place_in_any_clip() -> None:
    """Positions that grow from left to right and with time do so on another grid, between the same ends."""
    stem = vit_s16(width=1).stem
    column, frame = torch.arange(14.0) / 13, torch.arange(4.0) / 3
    with torch.no_grad():
        nn.init.zeros_(stem.project.weight)
        assert stem.project.bias is not None
        nn.init.zeros_(stem.project.bias)
        stem.positions.copy_((column + 10 * frame[:, None, None]).expand(1, 6, 4, 14, 14))
        same = stem(torch.rand(1, 3, 8, 224, 224))
        other = stem(torch.rand(1, 3, 16, 112, 112))
    assert torch.equal(same[0], stem.positions[0])
    assert other.shape == (1, 6, 8, 7, 7)
    middles = (torch.arange(7.0) + 0.5) / 7 * 14 - 0.5  # of each token, in tokens of the reference
    torch.testing.assert_close(other[0, 0, 0, 0] - other[0, 0, 0, 0, :1], (middles - middles[0]) / 13)
    assert bool((other[0, 0, 1:] >= other[0, 0, :-1]).all())
    assert bool(other[0, 0, -1, 0, 0] > other[0, 0, 0, 0, 0] + 9)


def test_clips_that_a_vit_cannot_take_are_refused_with_the_nearest_sizes() -> None:
    config = demo(None, Path())
    config = replace(config, model=replace(config.model, arch="vit-s16"))
    check_clips(config)
    crop = replace(config, clips=replace(config.clips, crop_size=56))
    with pytest.raises(ConfigError, match=r"--clips.crop-size 56: .* of 16 pixels. Use one of the nearest: 48 or 64."):
        check_clips(crop)
    check_clips(replace(crop, model=replace(crop.model, arch="r18")))
    odd = replace(config.clips, visual=replace(config.clips.visual, num_frames=7))
    with pytest.raises(ConfigError, match=r"--clips.visual.num-frames 7: .* one of the nearest: 6 or 8."):
        check_clips(replace(config, clips=odd))
    with pytest.raises(ConfigError, match="the nearest: 16"):
        vit_s16(1)(torch.rand(1, 3, 8, 16, 10))
    card = {"arch": "vit-s16", "width": 1, "crop_size": 64, "num_frames": 8, "stride": 4}
    opened = replace(open_backbone(BackboneConfig("random", arch="vit-s16", width=1)), card=card)
    assert opened.views(ViewsConfig(test_crop_size=80)).test_crop_size == 80
    with pytest.raises(ConfigError, match=r"--views.test-crop-size 72: .* 64 or 80"):
        opened.views(ViewsConfig(test_crop_size=72))


def test_a_vit_has_nothing_to_dilate() -> None:
    net = vit_s16(1)
    with pytest.raises(ConfigError, match="--output-stride 8: this net has an output every 16 pixels"):
        net.with_output_stride(8)
    copy = net.with_output_stride(16)
    assert copy is not net
    assert isinstance(copy, VisionTransformer)


@pytest.mark.parametrize("frames", [8, 16])
def test_the_memory_of_a_vit_is_not_taken_for_nothing(frames: int) -> None:
    """What autograd saves for a group, counted by its own hooks, fits into what `groups_in_a_pass` allows for it."""
    model = ModelConfig(arch="vit-s16", visual_width=8, head_width=16)
    nets = Pathways(model, motion_channels=0)
    clips = torch.rand(4, 3, frames, 64, 64)
    weights = {p.untyped_storage().data_ptr() for p in nets.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = nets(clips, None)
    kept = sum(saved.values())
    assert output.requires_grad
    free = int(40 * kept / 0.6)
    assert 10 < groups_in_a_pass(64, lambda: nets(clips, None), nets, 4, free) <= 40

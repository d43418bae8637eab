"""Parameter names of PySlowFast and PyTorchVideo: known names, round trips, and what does not fit."""

import pytest
import torch

from modist_fast.errors import ConfigError
from modist_fast.models import ResNet, build_visual
from modist_fast.models.resnet import motion_resnet, visual_resnet
from modist_fast.weights.names import PYSLOWFAST, PYTORCHVIDEO, Conversion

BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

# Written down from the two libraries' module definitions: a name, and the shape of that tensor in a Slow R50.
PYSLOWFAST_R50 = {
    "s1.pathway0_stem.conv.weight": (64, 3, 5, 7, 7),
    "s1.pathway0_stem.bn.weight": (64,),
    "s1.pathway0_stem.bn.bias": (64,),
    "s1.pathway0_stem.bn.running_mean": (64,),
    "s1.pathway0_stem.bn.running_var": (64,),
    "s1.pathway0_stem.bn.num_batches_tracked": (),
    "s2.pathway0_res0.branch1.weight": (256, 64, 1, 1, 1),
    "s2.pathway0_res0.branch1_bn.weight": (256,),
    "s2.pathway0_res0.branch1_bn.running_var": (256,),
    "s2.pathway0_res0.branch2.a.weight": (64, 64, 1, 1, 1),
    "s2.pathway0_res0.branch2.a_bn.bias": (64,),
    "s2.pathway0_res0.branch2.b.weight": (64, 64, 1, 3, 3),
    "s2.pathway0_res0.branch2.b_bn.running_mean": (64,),
    "s2.pathway0_res0.branch2.c.weight": (256, 64, 1, 1, 1),
    "s2.pathway0_res0.branch2.c_bn.weight": (256,),
    "s2.pathway0_res2.branch2.a.weight": (64, 256, 1, 1, 1),
    "s3.pathway0_res0.branch1.weight": (512, 256, 1, 1, 1),
    "s3.pathway0_res0.branch2.b.weight": (128, 128, 1, 3, 3),
    "s3.pathway0_res3.branch2.c_bn.running_var": (512,),
    "s4.pathway0_res0.branch1.weight": (1024, 512, 1, 1, 1),
    "s4.pathway0_res0.branch2.a.weight": (256, 512, 3, 1, 1),
    "s4.pathway0_res5.branch2.a.weight": (256, 1024, 3, 1, 1),
    "s4.pathway0_res5.branch2.c_bn.num_batches_tracked": (),
    "s5.pathway0_res0.branch1_bn.running_mean": (2048,),
    "s5.pathway0_res1.branch2.a.weight": (512, 2048, 3, 1, 1),
    "s5.pathway0_res2.branch2.c.weight": (2048, 512, 1, 1, 1),
}
PYTORCHVIDEO_R50 = {
    "blocks.0.conv.weight": (64, 3, 5, 7, 7),
    "blocks.0.norm.weight": (64,),
    "blocks.0.norm.running_mean": (64,),
    "blocks.0.norm.num_batches_tracked": (),
    "blocks.1.res_blocks.0.branch1_conv.weight": (256, 64, 1, 1, 1),
    "blocks.1.res_blocks.0.branch1_norm.bias": (256,),
    "blocks.1.res_blocks.0.branch1_norm.running_var": (256,),
    "blocks.1.res_blocks.0.branch2.conv_a.weight": (64, 64, 1, 1, 1),
    "blocks.1.res_blocks.0.branch2.norm_a.weight": (64,),
    "blocks.1.res_blocks.0.branch2.conv_b.weight": (64, 64, 1, 3, 3),
    "blocks.1.res_blocks.0.branch2.norm_b.running_mean": (64,),
    "blocks.1.res_blocks.0.branch2.conv_c.weight": (256, 64, 1, 1, 1),
    "blocks.1.res_blocks.0.branch2.norm_c.bias": (256,),
    "blocks.1.res_blocks.2.branch2.norm_c.running_var": (256,),
    "blocks.2.res_blocks.0.branch1_conv.weight": (512, 256, 1, 1, 1),
    "blocks.2.res_blocks.3.branch2.conv_a.weight": (128, 512, 1, 1, 1),
    "blocks.3.res_blocks.0.branch2.conv_a.weight": (256, 512, 3, 1, 1),
    "blocks.3.res_blocks.5.branch2.conv_b.weight": (256, 256, 1, 3, 3),
    "blocks.4.res_blocks.0.branch1_norm.weight": (2048,),
    "blocks.4.res_blocks.2.branch2.conv_a.weight": (512, 2048, 3, 1, 1),
    "blocks.4.res_blocks.2.branch2.norm_c.num_batches_tracked": (),
}
PYSLOWFAST_R18 = {
    "s1.pathway0_stem.conv.weight": (64, 3, 5, 7, 7),
    "s2.pathway0_res0.branch2.a.weight": (64, 64, 1, 3, 3),
    "s2.pathway0_res0.branch2.b.weight": (64, 64, 1, 3, 3),
    "s2.pathway0_res1.branch2.b_bn.weight": (64,),
    "s3.pathway0_res0.branch1.weight": (128, 64, 1, 1, 1),
    "s4.pathway0_res0.branch2.a.weight": (256, 128, 3, 3, 3),
    "s5.pathway0_res0.branch1_bn.running_mean": (512,),
    "s5.pathway0_res1.branch2.a_bn.running_var": (512,),
}


def scrambled(arch: str, width: int = 64, seed: int = 0) -> ResNet:
    """A backbone in which no two tensors are alike, batch norm statistics included."""
    random = torch.Generator().manual_seed(seed)
    net = build_visual(arch, width).eval()
    assert isinstance(net, ResNet)  # type: ignore[arg-type]
    for number, (name, tensor) in enumerate(net.state_dict().items()):
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=random)
            tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values * 0.1)
        else:
            tensor.fill_(1000 + number)
    return net


def block_names(depths: tuple[int, ...], layers: str, shortcut_in_res2: bool) -> set[str]:
    """Every name of PySlowFast's Slow pathway, by counting."""
    names = {"s1.pathway0_stem.conv.weight", *(f"s1.pathway0_stem.bn.{leaf}" for leaf in BN)}
    for stage, depth in enumerate(depths, start=2):
        for block in range(depth):
            prefix = f"s{stage}.pathway0_res{block}"
            for layer in layers:
                names |= {f"{prefix}.branch2.{layer}.weight", *(f"{prefix}.branch2.{layer}_bn.{leaf}" for leaf in BN)}
            if block == 0 and (stage > 2 or shortcut_in_res2):
                names |= {f"{prefix}.branch1.weight", *(f"{prefix}.branch1_bn.{leaf}" for leaf in BN)}
    return names


@pytest.mark.parametrize(
    ("arch", "naming", "known"),
    [
        ("r50", PYSLOWFAST, PYSLOWFAST_R50),
        ("r18", PYSLOWFAST, PYSLOWFAST_R18),
        ("r50", PYTORCHVIDEO, PYTORCHVIDEO_R50),
    ],
)
def test_known_names(arch, naming, known):
    with torch.device("meta"):
        converted = naming.theirs(visual_resnet(arch).state_dict())
    assert {name: tuple(converted[name].shape) for name in known if name in converted} == known


def test_all_names_of_pyslowfast():
    with torch.device("meta"):
        r50, r18 = visual_resnet("r50").state_dict(), visual_resnet("r18").state_dict()
    assert set(PYSLOWFAST.theirs(r50)) == block_names((3, 4, 6, 3), "abc", shortcut_in_res2=True)
    assert set(PYSLOWFAST.theirs(r18)) == block_names((2, 2, 2, 2), "ab", shortcut_in_res2=False)


@pytest.mark.parametrize(
    ("arch", "naming"),
    [
        ("r50", PYSLOWFAST),
        ("r18", PYSLOWFAST),
        ("r50", PYTORCHVIDEO),
    ],
)
def test_round_trips(arch, naming):
    source, target = scrambled(arch, width=8), scrambled(arch, width=8, seed=1)
    ours = source.state_dict()
    peers = naming.theirs(ours)
    assert len(peers) == len(ours)  # each of our names has a name of its own there
    assert not set(peers) & set(ours)
    conversion = naming.ours(peers, target)
    assert conversion.complete
    assert not conversion.unexpected
    assert list(conversion.state) == list(ours)
    assert all(torch.equal(conversion.state[name], ours[name]) for name in ours)

    clips = torch.rand(2, 3, 4, 32, 32)
    with torch.no_grad():
        assert not torch.equal(source(clips), target(clips))
        target.load_state_dict(conversion.state)
        assert torch.equal(source(clips), target(clips))

    again = naming.theirs(conversion.state)
    assert list(again) == list(peers)
    assert all(torch.equal(again[name], peers[name]) for name in peers)


def test_published_slow_r50_fits_but_for_conv1_and_its_classifier():
    """PyTorchVideo's slow_r50 has a 1×7² conv1 and a classifier of 400 classes."""
    net = scrambled("r50", width=8)
    peers = PYTORCHVIDEO.theirs(net.state_dict())
    peers["blocks.0.conv.weight"] = torch.zeros(8, 3, 1, 7, 7)
    peers |= {"blocks.5.proj.weight": torch.zeros(400, 256), "blocks.5.proj.bias": torch.zeros(400)}
    conversion = PYTORCHVIDEO.ours(peers, net)
    assert conversion == Conversion(
        state=conversion.state,
        missing=[],
        unexpected=["blocks.5.proj.weight", "blocks.5.proj.bias"],
        mismatched={"stem.weight": ((8, 3, 1, 7, 7), (8, 3, 5, 7, 7))},
    )
    assert not conversion.complete
    assert set(net.state_dict()) - set(conversion.state) == {"stem.weight"}
    left_out = net.load_state_dict(conversion.state, strict=False)
    assert left_out.missing_keys == ["stem.weight"]
    assert not left_out.unexpected_keys


def test_every_fault_is_named():
    net = scrambled("r18", width=8)
    peers = PYSLOWFAST.theirs(net.state_dict())
    del peers["s4.pathway0_res1.branch2.a_bn.bias"]
    peers["s3.pathway0_res0.branch1.weight"] = torch.zeros(16, 9, 1, 1, 1)
    peers["head.projection.weight"] = torch.zeros(4, 64)
    peers["s2.pathway1_res0.branch2.a.weight"] = torch.zeros(1)  # a Fast pathway's
    conversion = PYSLOWFAST.ours(peers, net)
    assert conversion.missing == ["stages.res4.1.residual.norm_a.bias"]
    assert conversion.mismatched == {"stages.res3.0.shortcut.conv.weight": ((16, 9, 1, 1, 1), (16, 8, 1, 1, 1))}
    assert conversion.unexpected == ["head.projection.weight", "s2.pathway1_res0.branch2.a.weight"]
    assert len(conversion.state) == len(net.state_dict()) - 2


def test_conversion_leaves_the_net_alone():
    net = scrambled("r18", width=8)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    PYSLOWFAST.ours(PYSLOWFAST.theirs(scrambled("r18", width=8, seed=1).state_dict()), net)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_unusable_input():
    r18 = scrambled("r18", width=8)
    with pytest.raises(ConfigError, match=r"'module\.stem\.weight'"):
        PYSLOWFAST.theirs({f"module.{name}": tensor for name, tensor in r18.state_dict().items()})


def test_motion_backbones_convert_as_well():
    net = motion_resnet("r50")
    conversion = PYSLOWFAST.ours(PYSLOWFAST.theirs(net.state_dict()), net)
    assert conversion.complete
    assert not conversion.unexpected

"""Both pathways against Table 1 of the paper, against sums done by hand, and against plain convolutions in float64."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modist_fast.config import ModelConfig
from modist_fast.models.layers import CastWeights, Stem, convolve_by_frames, lay_gradients_as_weights
from modist_fast.models.norm import GroupBatchNorm
from modist_fast.models.resnet import Block, ResNet, _basic, _bottleneck, motion_resnet, visual_resnet
from modist_fast.pathways import Pathways

# (channels, frames, height, width) after each layer of Table 1. Table 1 prints conv1's stride as (2, 2²).
VISUAL_R50 = {
    "conv1": (64, 4, 112, 112),
    "pool1": (64, 4, 56, 56),
    "res2": (256, 4, 56, 56),
    "res3": (512, 4, 28, 28),
    "res4": (1024, 4, 14, 14),
    "res5": (2048, 4, 7, 7),
    "pooled": (2048,),
}
MOTION_R50 = {
    "conv1": (8, 8, 112, 112),
    "pool1": (8, 8, 56, 56),
    "res2": (32, 8, 56, 56),
    "res3": (64, 8, 28, 28),
    "res4": (128, 8, 14, 14),
    "res5": (256, 8, 7, 7),
    "pooled": (256,),
}
VISUAL_R18_128 = {
    "conv1": (64, 4, 64, 64),
    "pool1": (64, 4, 32, 32),
    "res2": (64, 4, 32, 32),
    "res3": (128, 4, 16, 16),
    "res4": (256, 4, 8, 8),
    "res5": (512, 4, 4, 4),
    "pooled": (512,),
}
MOTION_R18_128 = {
    "conv1": (8, 8, 64, 64),
    "pool1": (8, 8, 32, 32),
    "res2": (8, 8, 32, 32),
    "res3": (16, 8, 16, 16),
    "res4": (32, 8, 8, 8),
    "res5": (64, 8, 4, 4),
    "pooled": (64,),
}


def shapes_of_layers(net: ResNet, clips: Tensor) -> dict[str, tuple[int, ...]]:
    shapes = {}
    modules = {"conv1": net.stem, "pool1": net.pool, **dict(net.stages.named_children())}
    for name, module in modules.items():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])})
        )
    features = net(clips)
    assert features.shape[0] == clips.shape[0]
    return {**shapes, "pooled": tuple(features.shape[1:])}


@pytest.mark.parametrize(
    ("build", "arch", "clip", "table"),
    [
        (visual_resnet, "r50", (3, 8, 224, 224), VISUAL_R50),
        (motion_resnet, "r50", (1, 16, 224, 224), MOTION_R50),
        (visual_resnet, "r18", (3, 8, 128, 128), VISUAL_R18_128),
        (motion_resnet, "r18", (1, 16, 128, 128), MOTION_R18_128),
    ],
)
def test_table_1_layer_by_layer(build, arch, clip, table):
    with torch.device("meta"):
        net = build(arch)
        shapes = shapes_of_layers(net, torch.empty(2, *clip))
    assert shapes == table
    assert net.num_features == table["pooled"][0]


def test_table_1_kernels():
    """Time is convolved in conv1, res4 and res5 of the visual pathway alone."""
    with torch.device("meta"):
        nets = {
            ("visual", "r50"): visual_resnet("r50"),
            ("motion", "r50"): motion_resnet("r50"),
            ("visual", "r18"): visual_resnet("r18"),
            ("motion", "r18"): motion_resnet("r18"),
        }
    for (pathway, arch), net in nets.items():
        first, *stage_times = (5, 1, 1, 3, 3) if pathway == "visual" else (1, 1, 1, 1, 1)
        assert net.stem.kernel_size == (first, 7, 7)
        assert net.stem.stride == (2, 2, 2)
        for (name, stage), time, depth in zip(
            net.stages.named_children(), stage_times, (3, 4, 6, 3) if arch == "r50" else (2, 2, 2, 2), strict=True
        ):
            assert isinstance(stage, nn.Sequential)
            assert len(stage) == depth
            for position, block in enumerate(stage):
                assert isinstance(block, Block)
                convs = [layer for layer in block.residual if isinstance(layer, nn.Conv3d)]
                expected = [(time, 1, 1), (1, 3, 3), (1, 1, 1)] if arch == "r50" else [(time, 3, 3), (1, 3, 3)]
                assert [conv.kernel_size for conv in convs] == expected
                halves = position == 0 and name != "res2"
                strides = [conv.stride for conv in convs if conv.stride != (1, 1, 1)]
                assert strides == ([(1, 2, 2)] if halves else [])


def num_parameters_by_hand(arch: str, in_channels: int, width: int, times: tuple[int, ...]) -> int:
    """Weights of every convolution, and two numbers a channel of every batch norm; read off Table 1."""
    total = width * in_channels * times[0] * 7 * 7 + 2 * width
    inputs = width
    for stage, time in enumerate(times[1:]):
        inner = width * (1, 2, 4, 8)[stage]
        outer = 4 * inner if arch == "r50" else inner
        for block in range(((3, 4, 6, 3) if arch == "r50" else (2, 2, 2, 2))[stage]):
            if arch == "r50":
                total += inputs * inner * time + 2 * inner
                total += inner * inner * 9 + 2 * inner
                total += inner * outer + 2 * outer
            else:
                total += inputs * inner * time * 9 + 2 * inner
                total += inner * inner * 9 + 2 * inner
            if block == 0 and (stage > 0 or inputs != outer):
                total += inputs * outer + 2 * outer
            inputs = outer
    return total


@pytest.mark.parametrize(
    ("build", "arch", "count", "in_channels", "width", "times"),
    [
        (visual_resnet, "r50", 31_672_128, 3, 64, (5, 1, 1, 3, 3)),
        (motion_resnet, "r50", 373_368, 1, 8, (1, 1, 1, 1, 1)),
        (visual_resnet, "r18", 20_061_504, 3, 64, (5, 1, 1, 3, 3)),
        (motion_resnet, "r18", 175_928, 1, 8, (1, 1, 1, 1, 1)),
    ],
)
def test_parameter_counts(build, arch, count, in_channels, width, times):
    with torch.device("meta"):
        net = build(arch)
    assert num_parameters_by_hand(arch, in_channels, width, times) == count
    assert sum(parameter.numel() for parameter in net.parameters()) == count


def test_one_channel_conv1_is_the_three_channel_one_on_the_replicated_map():
    torch.manual_seed(0)
    three = nn.Conv3d(3, 8, (1, 7, 7), stride=2, padding=(0, 3, 3), bias=False, dtype=torch.float64)
    one = motion_resnet("r50").double().stem
    with torch.no_grad():
        one.weight.copy_(three.weight.sum(dim=1, keepdim=True))
        maps = torch.rand(2, 1, 6, 20, 22, dtype=torch.float64)
        torch.testing.assert_close(one(maps), three(maps.expand(-1, 3, -1, -1, -1)), rtol=0, atol=1e-14)


def test_motion_conv1_learns_as_one_of_three_equal_channels():
    """Trained by the recipe's optimizer, it stays the three-channel one's summed kernels over √3, behind batch norm."""
    torch.manual_seed(0)
    three = nn.Conv3d(3, 8, (1, 7, 7), stride=2, padding=(0, 3, 3), bias=False, dtype=torch.float64)
    one = motion_resnet("r18").double().stem
    with torch.no_grad():
        nn.init.kaiming_normal_(three.weight, mode="fan_out")
        fan_out = 8 * 49
        assert one.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        one.weight.copy_(three.weight.sum(dim=1, keepdim=True) / 3**0.5)
    start = one.weight.detach().clone()
    maps = torch.rand(2, 1, 2, 20, 22, dtype=torch.float64)
    for conv, clip in ((one, maps), (three, maps.expand(-1, 3, -1, -1, -1))):
        norm = nn.BatchNorm3d(8, eps=1e-30, dtype=torch.float64)  # eps is what tells the two scales apart
        sgd = torch.optim.SGD(conv.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2)
        for _ in range(5):
            sgd.zero_grad()
            norm(conv(clip)).sin().square().mean().backward()
            sgd.step()
    assert (one.weight - start).norm() > 0.01 * start.norm()
    torch.testing.assert_close(one.weight, three.weight.sum(dim=1, keepdim=True) / 3**0.5, rtol=0, atol=1e-12)


def scramble(module: nn.Module) -> None:
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            values = torch.randn_like(tensor)
            tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else 0.3 * values)


def conv_norm(x: Tensor, conv: nn.Module, norm: nn.Module, stride: int, pad: tuple[int, int], training: bool) -> Tensor:
    assert isinstance(conv, nn.Conv3d)
    assert isinstance(norm, GroupBatchNorm)
    x = F.conv3d(x, conv.weight, stride=(1, stride, stride), padding=(pad[0], pad[1], pad[1]))
    axes = (0, 2, 3, 4)
    mean = x.mean(axes) if training else norm.running_mean
    variance = x.var(axes, unbiased=False) if training else norm.running_var
    assert mean is not None
    assert variance is not None
    shape = (1, -1, 1, 1, 1)
    scaled = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5)
    return scaled * norm.weight.view(shape) + norm.bias.view(shape)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("inputs", "stride"), [(6, 1), (6, 2), (16, 1)])
def test_bottleneck_against_plain_calls(training, inputs, stride):
    torch.manual_seed(0)
    block = Block(_bottleneck(inputs, 4, 3, stride), inputs, 16, stride).double().train(training)
    scramble(block)
    x = torch.randn(2, inputs, 5, 9, 7, dtype=torch.float64)
    layers = dict(block.residual.named_children())
    with torch.no_grad():
        y = F.relu(conv_norm(x, layers["conv_a"], layers["norm_a"], 1, (1, 0), training))
        y = F.relu(conv_norm(y, layers["conv_b"], layers["norm_b"], stride, (0, 1), training))
        y = conv_norm(y, layers["conv_c"], layers["norm_c"], 1, (0, 0), training)
        skip = x
        assert (block.shortcut is None) == (inputs == 16 and stride == 1)
        if block.shortcut is not None:
            skip = conv_norm(x, block.shortcut[0], block.shortcut[1], stride, (0, 0), training)
        torch.testing.assert_close(block(x.clone()), F.relu(skip + y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("inputs", "stride"), [(6, 2), (4, 1)])
def test_basic_block_against_plain_calls(training, inputs, stride):
    torch.manual_seed(0)
    block = Block(_basic(inputs, 4, 3, stride), inputs, 4, stride).double().train(training)
    scramble(block)
    x = torch.randn(2, inputs, 5, 9, 7, dtype=torch.float64)
    layers = dict(block.residual.named_children())
    with torch.no_grad():
        y = F.relu(conv_norm(x, layers["conv_a"], layers["norm_a"], stride, (1, 1), training))
        y = conv_norm(y, layers["conv_b"], layers["norm_b"], 1, (0, 1), training)
        skip = x
        assert (block.shortcut is None) == (inputs == 4 and stride == 1)
        if block.shortcut is not None:
            skip = conv_norm(x, block.shortcut[0], block.shortcut[1], stride, (0, 0), training)
        torch.testing.assert_close(block(x.clone()), F.relu(skip + y), rtol=1e-12, atol=1e-12)


def test_inputs_are_not_written_to():
    """Layers work in place; the clips of the caller are not theirs."""
    net = visual_resnet("r18", 8)
    clips = torch.rand(2, 3, 4, 32, 32)
    before = clips.clone()
    net(clips).sum().backward()
    assert torch.equal(clips, before)


def test_features_are_the_mean_of_res5():
    net = visual_resnet("r18", 8).eval()
    clips = torch.rand(2, 3, 4, 64, 64)
    with torch.no_grad():
        maps = net.feature_map(clips)
        assert maps.shape == (2, 64, 2, 2, 2)
        assert torch.allclose(net(clips), maps.flatten(2).mean(2), atol=1e-6)


@pytest.mark.parametrize("arch", ["r50", "r18"])
@pytest.mark.parametrize("build", [visual_resnet, motion_resnet])
def test_residual_branches_begin_as_nothing(arch, build):
    net = build(arch, 8)
    last = "norm_c" if arch == "r50" else "norm_b"
    for name, parameter in net.named_parameters():
        if "norm" in name and name.endswith("weight"):
            assert bool((parameter == 0).all()) == (f"residual.{last}." in name), name
            assert f"residual.{last}." in name or bool((parameter == 1).all())
        elif "norm" in name:
            assert bool((parameter == 0).all())


def test_kaiming_fan_out():
    torch.manual_seed(0)
    for name, module in visual_resnet("r18", 32).named_modules():
        if isinstance(module, nn.Conv3d) and module.weight.numel() > 20_000:
            fan_out = module.out_channels * module.weight[0, 0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name


def test_stem_by_frames_is_the_stem() -> None:
    """What a GPU computes instead of the 3D convolution, and its gradient, in float64."""
    torch.manual_seed(0)
    stem = visual_resnet("r18", width=6).double().stem
    clips = torch.randn(2, 3, 7, 19, 22, dtype=torch.float64)
    expected = stem(clips)
    found = convolve_by_frames(clips, stem.weight, stem.stride, stem.padding)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(expected)
    gradients = [torch.autograd.grad(output, stem.weight, upstream)[0] for output in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-11, atol=1e-11)


def test_clips_get_their_gradient_where_the_stem_goes_by_frames(monkeypatch) -> None:
    """By frames there is none; whoever asks for it, as for a saliency map, gets the 3D convolution."""
    stem = visual_resnet("r18", width=6).double().stem
    clips = torch.randn(1, 3, 5, 16, 16, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(stem(clips).square().sum(), clips)[0]
    monkeypatch.setattr(Stem, "by_frames", True)
    assert torch.equal(torch.autograd.grad(stem(clips).square().sum(), clips)[0], expected)
    assert expected.abs().max() > 0


def test_weights_cast_in_lists_are_those_that_autocast_makes() -> None:
    """Outputs, and gradients in float32, of both; bit for bit."""
    torch.manual_seed(0)
    # As training has them: of 4 frames of 32², oneDNN's bf16 weight gradient of the stem is garbage, NaN at times.
    net = visual_resnet("r18", width=4).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    clips = torch.rand(2, 3, 8, 48, 48).contiguous(memory_format=torch.channels_last_3d)
    casts = CastWeights(net)
    results = []
    for by_list in (False, True):
        net.zero_grad()
        if by_list:
            casts.set(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            output = net(clips)
        casts.clear()
        output.float().square().sum().backward()
        results.append([output, *(parameter.grad.clone() for parameter in net.parameters())])  # type: ignore[union-attr]
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    assert results[1][1].dtype == torch.float32


def test_casts_of_momentum_nets_follow_their_weights_in_place() -> None:
    net = visual_resnet("r18", width=4)
    casts = CastWeights(net)
    casts.update(torch.bfloat16)
    first = net.stem.cast_weight
    with torch.no_grad():
        net.stem.weight.mul_(2)
    casts.update(torch.bfloat16)
    assert net.stem.cast_weight is first
    torch.testing.assert_close(first, net.stem.weight.bfloat16())


@pytest.mark.parametrize("arch", ["r18", "r50"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_lie_as_their_weights(arch, dtype) -> None:
    """Or DDP says so, and copies each into its bucket: strides of axes of length 1 are anybody's choice."""
    nets = Pathways(ModelConfig(arch=arch, visual_width=16, head_width=32), motion_channels=1)
    nets.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    lay_gradients_as_weights(nets)
    clips = [torch.rand(2, 3, 8, 48, 48), torch.rand(2, 1, 16, 48, 48)]
    clips = [clip.contiguous(memory_format=torch.channels_last_3d) for clip in clips]
    casts = CastWeights(nets)
    if dtype != torch.float32:
        casts.set(dtype)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        nets(*clips).square().sum().backward()
    casts.clear()
    for name, weight in nets.named_parameters():
        assert weight.grad is not None
        assert weight.grad.stride() == weight.stride(), name

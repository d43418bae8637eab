"""Exported backbones: the same features to the bit, a card that says what they are, errors that say what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import modist_fast
from modist_fast.errors import ConfigError
from modist_fast.models.resnet import ResNet, visual_resnet
from modist_fast.run.export import export_backbone, read_card

pytestmark = pytest.mark.slow

CARD = {"arch": "r18", "width": 8, "mean": [0.45] * 3, "std": [0.225] * 3, "num_frames": 8, "stride": 8}


def trained(arch: str = "r18", width: int = 8) -> ResNet:
    """A backbone whose batch norms have seen something."""
    torch.manual_seed(0)
    net = visual_resnet(arch, width)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for _ in range(3):
        net(torch.rand(4, 3, 4, 32, 32))
    return net


@pytest.fixture
def exported(tmp_path) -> Path:
    path = tmp_path / "backbone.safetensors"
    export_backbone(trained(), path, CARD)
    return path


def edit_card(path: Path, **changes: object) -> None:
    card_path = path.with_suffix(".json")
    card = json.loads(card_path.read_text())
    card_path.write_text(json.dumps({name: value for name, value in {**card, **changes}.items() if value is not None}))


@pytest.mark.parametrize("arch", ["r50", "r18"])
def test_features_are_bit_equal(tmp_path, arch):
    net = trained(arch)
    path = tmp_path / "backbone.safetensors"
    export_backbone(net, path, {**CARD, "arch": arch})
    assert net.training  # left as it was
    loaded = modist_fast.load_backbone(str(path))
    assert isinstance(loaded, torch.nn.Module)
    assert not loaded.training
    clips = torch.rand(2, 3, 4, 32, 32)
    with torch.no_grad():
        features = net.eval()(clips)
        assert torch.equal(loaded(clips), features)
    assert features.std() > 0
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in net.state_dict().items())


def test_channels_last_weights_are_written_plainly(tmp_path):
    net = trained().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    path = tmp_path / "backbone.safetensors"
    export_backbone(net, path, CARD)
    assert all(tensor.is_contiguous() for tensor in load_file(path).values())
    assert torch.equal(load_file(path)["stem.weight"], net.stem.weight)


def test_what_is_written(exported):
    assert sorted(path.name for path in exported.parent.iterdir()) == ["backbone.json", "backbone.safetensors"]
    assert read_card(exported) == {"format": "modist-backbone", "version": 1, **CARD}
    assert set(load_file(exported)) == set(visual_resnet("r18", 8).state_dict())


def test_export_replaces_an_older_one(exported):
    net = trained()
    with torch.no_grad():
        net.stem.weight.add_(1)
    export_backbone(net, exported, {**CARD, "stride": 4})
    assert torch.equal(modist_fast.load_backbone(exported).state_dict()["stem.weight"], net.stem.weight)
    assert read_card(exported)["stride"] == 4


def test_missing_card(exported):
    exported.with_suffix(".json").unlink()
    with pytest.raises(ConfigError, match=r"card backbone\.json cannot be read.*Keep the \.safetensors and"):
        modist_fast.load_backbone(exported)


@pytest.mark.parametrize("text", ["{", "[]", '"card"', "\xff"])
def test_damaged_card(exported, text):
    exported.with_suffix(".json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"backbone\.json"):
        modist_fast.load_backbone(exported)


@pytest.mark.parametrize("changes", [{"version": 2}, {"format": "other"}, {"format": None}])
def test_card_of_another_format(exported, changes):
    edit_card(exported, **changes)
    with pytest.raises(ConfigError, match="reads 'modist-backbone' version 1"):
        modist_fast.load_backbone(exported)


@pytest.mark.parametrize("changes", [{"arch": None}, {"width": None}, {"arch": "r101"}, {"width": "8"}, {"width": 0}])
def test_card_that_describes_no_network(exported, changes):
    edit_card(exported, **changes)
    (name,) = changes
    with pytest.raises(ConfigError, match=rf"backbone\.json.*{name}"):
        modist_fast.load_backbone(exported)


@pytest.mark.parametrize("changes", [{"arch": "r50"}, {"width": 16}])
def test_card_of_another_network(exported, changes):
    edit_card(exported, **changes)
    with pytest.raises(ConfigError, match=r"does not fit its card .* of one export"):
        modist_fast.load_backbone(exported)


def test_weights_with_a_tensor_too_many(exported):
    save_file({**load_file(exported), "head.weight": torch.zeros(1)}, exported)
    with pytest.raises(ConfigError, match=r"does not fit its card.*head\.weight"):
        modist_fast.load_backbone(exported)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights(exported, share):
    whole = exported.read_bytes()
    exported.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ConfigError, match=r"backbone\.safetensors cannot be read"):
        modist_fast.load_backbone(exported)


def test_missing_weights(exported):
    exported.unlink()
    with pytest.raises(ConfigError, match=r"backbone\.safetensors does not exist"):
        modist_fast.load_backbone(exported)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["stem.weight", "stages.res3.0.residual.norm_a.running_var"])
def test_numbers_that_are_not_finite_are_neither_written_nor_read(exported: Path, name: str, bad: float) -> None:
    before = exported.read_bytes()
    net = trained()
    assert name in net.state_dict()
    net.state_dict()[name].view(-1)[0] = bad
    with pytest.raises(ConfigError) as caught:
        export_backbone(net, exported, {**CARD, "steps": 70})
    for words in ("after step 70", "in 1 of its 100 tensors", name, "was not written", "no checkpoint", "--optim.lr"):
        assert words in str(caught.value)
    assert exported.read_bytes() == before
    assert read_card(exported)["stride"] == 8
    save_file(net.state_dict(), exported)
    with pytest.raises(ConfigError, match=rf"backbone\.safetensors has numbers that are not finite.*{name}"):
        modist_fast.load_backbone(exported)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_the_umask_says_who_may_read(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        export_backbone(trained(), tmp_path / "backbone.safetensors", CARD)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["backbone.safetensors", "backbone.json"], 0o666 & ~umask)


def test_importing_the_package_does_not_import_torch():
    script = "import modist_fast, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False).returncode == 0

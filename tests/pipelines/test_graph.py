"""The graph on a GPU is the one on the CPU, as far as it can be told without a GPU; with one, to the pixel."""

import struct
import sys
from typing import Any

import numpy as np
import pytest
from clip_store import jpeg, picture, run_graph, video_info
from made_videos import texture
from nvidia import dali

from modist_pipelines.clips.graph import Kind, clip_graph
from modist_pipelines.errors import DataError
from modist_pipelines.plan import ClipSpec, PlanConfig, plan_sample

KINDS: tuple[Kind, ...] = ("visual", "motion")


def operators(kind: Kind, device: Any, **options: Any) -> list[tuple[str, str, str]]:
    """(schema, instance, device) of each operator, in order; the graph has been serialized."""
    sizes: Any = {"crop_size": 32, "batch_size": 4, "num_threads": 1, "device_id": None}
    pipeline: Any = clip_graph(kind, device=device, **sizes, **options)
    assert len(pipeline.serialize()) > 1000
    return [(node._op.schema.Name(), node.name, node._op.device) for node in pipeline._ops]


@pytest.mark.parametrize("kind", KINDS)
def test_gpu_graph_is_the_cpu_graph(kind):
    cpu, gpu = operators(kind, "cpu"), operators(kind, "gpu")
    assert [op[:2] for op in cpu] == [op[:2] for op in gpu]
    computing = [op for op in cpu if op[0] != "ExternalSource"]
    expected = ["decoders__ImageSlice", "Resize", "GaussianBlur", "CoordTransform"]
    assert [op[0] for op in computing] == [name for name in expected if kind == "visual" or name != "GaussianBlur"]
    for (schema, _, on_cpu), (_, _, on_gpu) in zip(cpu, gpu, strict=True):
        assert on_cpu == "cpu"
        if schema == "ExternalSource":  # JPEGs and arguments come from the host
            assert on_gpu == "cpu"
        else:
            assert on_gpu == ("mixed" if schema == "decoders__ImageSlice" else "gpu")


@pytest.mark.parametrize("kind", KINDS)
def test_where_the_host_decodes_the_gpu_does_the_rest(kind):
    """The decoder is the CPU graph's own, to its last argument; what follows is the GPU graph's."""
    mixed, host = operators(kind, "gpu"), operators(kind, "gpu", decode_on_host=True)
    assert [op[:2] for op in mixed] == [op[:2] for op in host]
    for (schema, _, before), (_, _, where) in zip(mixed, host, strict=True):
        assert where == ("cpu" if schema == "decoders__ImageSlice" else before)
    sizes: Any = {"crop_size": 32, "batch_size": 4, "num_threads": 1, "device_id": None}
    told = clip_graph(kind, device="gpu", decode_on_host=True, **sizes).serialize()
    assert b"hw_decoder_load\x12" not in told
    assert b"jpeg_fancy_upsampling\x12" not in told


@pytest.mark.parametrize("kind", KINDS)
def test_gpu_graph_upsamples_chroma_as_the_cpu_and_shares_out_jpegs(kind):
    def serialized(device: Any, **options: Any) -> bytes:
        sizes: Any = {"crop_size": 32, "batch_size": 4, "num_threads": 1, "device_id": None}
        return clip_graph(kind, device=device, **sizes, **options).serialize()

    def argument(name: str, kind: str, value: bytes) -> bytes:  # as protobuf writes it
        return name.encode() + b"\x12" + bytes([len(kind)]) + kind.encode() + value

    fancy = argument("jpeg_fancy_upsampling", "bool", b"0\x01")
    assert fancy in serialized("gpu")
    assert b"jpeg_fancy_upsampling\x12" not in serialized("cpu")
    for share in (0.0, 0.25, 0.65, 1.0):
        assert argument("hw_decoder_load", "float", b"\x1d" + struct.pack("<f", share)) in serialized(
            "gpu", hw_decoder_load=share
        )
    assert serialized("gpu") == serialized("gpu", hw_decoder_load=0.65)
    assert b"hw_decoder_load\x12" not in serialized("cpu", hw_decoder_load=0.25)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_every_operator_is_registered_for_its_device(kind, device):
    ops: Any = dali.ops  # whose type stubs lack these
    registered = {"cpu": ops.cpu_ops(), "gpu": ops.gpu_ops(), "mixed": ops.mixed_ops()}
    for schema, _, where in operators(kind, device):
        assert schema in registered[where]


def test_missing_dali_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(DataError, match="pip install nvidia-dali-cuda130"):
        clip_graph("visual", crop_size=32, device="cpu", batch_size=1, num_threads=1, device_id=None)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_gpu_computes_what_the_cpu_does(kind):
    config = PlanConfig(ClipSpec(2, 4), ClipSpec(2, 4), 48, grid=4)
    samples = [plan_sample(config, 1, 0, video, video_info(9, 100, 72)) for video in range(12)]
    plans = [sample.visual_query if kind == "visual" else sample.motion_query for sample in samples]
    plans = [plan for plan in plans if plan is not None]
    if kind == "visual":
        jpegs = [jpeg(picture(72, 100, seed)) for seed in range(24)]
    else:
        jpegs = [jpeg(texture(72, 100, seed).astype(np.uint8)) for seed in range(24)]
    cpu, gpu = (run_graph(kind, jpegs, plans, crop_size=48, device_id=device) for device in (None, 0))
    mixed = run_graph(kind, jpegs, plans, crop_size=48, device_id=0, decode_on_host=True)
    # nvJPEG's inverse DCT and chroma interpolation differ from libjpeg's by a few of 255 levels.
    level = 1 / 255 / (config.augmentation.std if kind == "visual" else 1)
    assert abs(gpu - cpu).mean() < level
    assert abs(gpu - cpu).max() < 12 * level
    assert abs(mixed - cpu).max() < level  # decoded by the same library

"""Small stores of made-up clips for the tests of plan, graph and loader."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from made_videos import texture

from modist_pipelines.clips.graph import Kind, clip_graph, graph_inputs
from modist_pipelines.motion_inputs import MapScale
from modist_pipelines.plan import Augmentation, ClipPlan
from modist_pipelines.store.reader import Store, StoreMeta, VideoInfo
from modist_pipelines.store.writer import ShardWriter, quarantine_table, write_tables


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """(H, W, 3) uint8: a different smooth texture in each channel."""
    return np.stack([texture(height, width, 3 * seed + c) for c in range(3)], axis=2).astype(np.uint8)


def jpeg(pixels: np.ndarray) -> np.ndarray:
    """(num_bytes,) uint8 of an RGB or a gray picture, encoded as the store does."""
    encoded = cv2.imencode(".jpg", pixels[..., ::-1] if pixels.ndim == 3 else pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return encoded[1]


def video_info(
    num_frames: int, width: int = 96, height: int = 64, scores: Sequence[float] | np.ndarray | None = None
) -> VideoInfo:
    """A video that no store holds. All its motion scores are 1, unless they are given."""
    values = np.ones(num_frames) if scores is None else scores
    return VideoInfo(num_frames, width, height, "v.mp4", motion_scores={"edges": np.asarray(values, dtype=np.float32)})


def make_store(
    path: Path,
    num_frames: Sequence[int],
    *,
    height: int = 48,
    width: int = 64,
    grid: int = 4,
    scores: Mapping[int, Sequence[float]] | Mapping[int, np.ndarray] | None = None,
) -> Store:
    """Write a store of RGB frames and edges, no two frames alike.

    Args:
        num_frames: grid frames of each video, which is named by its number.
        scores: of the videos that do not score 1 in all frames.
    """
    path.mkdir(parents=True, exist_ok=True)
    base, gray = picture(height, width, 0), texture(height, width, 9).astype(np.uint8)
    with ShardWriter(path, 0, ["edges"]) as writer:
        for video, num in enumerate(num_frames):
            values = (scores or {}).get(video, [1.0] * num)
            for frame in range(num):
                # Videos differ by their shift, frames by their brightness.
                rgb = np.roll(base, 3 * video, axis=1) // 2 + np.uint8(5 * (frame % 25))
                edges = np.roll(gray, 3 * video, axis=0) // 2 + np.uint8(5 * (frame % 25))
                writer.append(jpeg(rgb).tobytes(), {"edges": (jpeg(edges).tobytes(), values[frame])})
            writer.finish_video(
                f"{video:04d}.mp4",
                label=None,
                width=width,
                height=height,
                source_fps=30.0,
                num_source_frames=num * grid,
            )
    meta = StoreMeta(short_side=min(height, width), grid=grid, motion_inputs={"edges": MapScale("px", 10.0)})
    write_tables(path, meta, writer.table(), quarantine_table([]))
    return Store.open(path)


def run_graph(
    kind: Kind,
    frames: Sequence[np.ndarray],
    plans: Sequence[ClipPlan],
    *,
    crop_size: int,
    options: Augmentation | None = None,
    device_id: int | None = None,
    pixels: Literal["jpeg", "rgb"] = "jpeg",
    decode_on_host: bool = False,
) -> np.ndarray:
    """(clips, T, crop_size, crop_size, C) float32 of one run, on the CPU or on CUDA device `device_id`."""
    pipeline = clip_graph(
        kind,
        crop_size=crop_size,
        device="cpu" if device_id is None else "gpu",
        batch_size=len(frames),
        num_threads=1,
        device_id=device_id,
        pixels=pixels,
        decode_on_host=decode_on_host,
    )
    pipeline.build()
    inputs = graph_inputs(kind, plans, options or Augmentation(), pixels)  # kept: a CPU graph reads them in place
    pipeline.feed_input("frame", list(frames))
    for name, rows in inputs.items():
        pipeline.feed_input(name, rows)
    (output,) = pipeline.run()
    clips = np.array(output.as_cpu().as_array())
    return clips.reshape(len(plans), -1, *clips.shape[1:])

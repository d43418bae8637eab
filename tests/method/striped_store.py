"""A small labelled store that is easy to tell apart: stripes that run down, or across."""

from pathlib import Path

import numpy as np
from clip_store import jpeg

from modist_pipelines.motion_inputs import MapScale
from modist_pipelines.store.reader import StoreMeta
from modist_pipelines.store.writer import ShardWriter, quarantine_table, write_tables

CLASSES = ("across", "down")


def _frames(random: np.random.Generator, label: str, num_frames: int, height: int, width: int) -> np.ndarray:
    """(T, H, W, 3) uint8: drifting gray stripes, with noise."""
    y, x = np.mgrid[:height, :width]
    along = x if label == "down" else y
    phase, speed = random.uniform(0, 6.3), random.uniform(-1, 1)
    wave = np.stack([np.sin(2 * np.pi * along / 10 + phase + speed * t) for t in range(num_frames)])
    frames = 128 + 80 * wave[..., None] + random.normal(0, 8, (num_frames, height, width, 3))
    return frames.clip(0, 255).astype(np.uint8)


def make_striped_store(
    path: Path, *, num_train: int = 48, num_test: int = 32, num_frames: int = 8, shuffled: bool = False
) -> Path:
    """Write STORE with the videos CLASS/NN.mp4, and STORE/list.csv with their labels and parts.

    Args:
        shuffled: labels in the list are dealt without regard to the stripes, as many of each class in each part.
    """
    path.mkdir(parents=True, exist_ok=True)
    height, width = 40, 48
    random, lines = np.random.default_rng(0), ["path,label,split"]
    num_videos = num_train + num_test
    parts = {"train": range(num_train), "test": range(num_train, num_videos)}
    dealt = [CLASSES[number % 2] for number in range(num_videos)]
    if shuffled:  # in fours: two of each stripe, one of them called by the other's name
        dealt = [CLASSES[number // 2 % 2] for number in range(num_videos)]
    with ShardWriter(path, 0, ["edges"]) as writer:
        for part, numbers in parts.items():
            for number in numbers:
                name = f"{CLASSES[number % 2]}/{number:02d}.mp4"
                for frame in _frames(random, CLASSES[number % 2], num_frames, height, width):
                    writer.append(jpeg(frame).tobytes(), {"edges": (jpeg(frame[..., 0]).tobytes(), 1.0)})
                writer.finish_video(
                    name,
                    label=CLASSES[number % 2],
                    width=width,
                    height=height,
                    source_fps=30.0,
                    num_source_frames=4 * num_frames,
                )
                lines.append(f"{name},{dealt[number]},{part}")
    meta = StoreMeta(short_side=height, grid=4, motion_inputs={"edges": MapScale("px", 10.0)})
    write_tables(path, meta, writer.table(), quarantine_table([]))
    (path / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path

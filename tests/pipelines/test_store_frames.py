"""The frame stored is the frame meant, on every real video: against sequential decoding and a search of its own."""

import os
from bisect import bisect_right
from pathlib import Path

import av
import cv2
import numpy as np
import prepare_parts
import pytest

from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.store.reader import Store

pytestmark = pytest.mark.slow

GRID, FPS = 4, 30
# All files of the folders; of the last, whose videos are of one kind, a few unless MODIST_ALL_VIDEOS is set.
FOLDERS = ("odd", "misc", "hmdb51_samples", "asl_gestures", "ut_interaction", "weizmann", "ucf101_6")


def shown(path: Path, size: tuple[int, int]) -> tuple[list[float], list[np.ndarray]]:
    """Seconds at which each frame appears, and the frames, upright, small and gray, by PyAV from first to last."""
    seconds, frames = [], []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")  # FFmpeg's choice
        assert isinstance(stream, av.VideoStream)
        # AVI knows no times of frames, only places in the file, one for each tick of its rate; an empty place leaves
        # the frame before on show. FFmpeg's tools call such a place the packet's decoding time.
        places = container.format.name == "avi"
        for frame in container.decode(stream):
            ticks = frame.dts if places else frame.pts
            if ticks is None or frame.time_base is None:
                assert seconds, f"{path}: not even the first frame has a time"
                seconds.append(seconds[-1] + 1 / float(stream.average_rate or FPS))
            else:
                seconds.append(float(ticks * frame.time_base))
            picture = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="gray"), round(frame.rotation / 90) % 4))
            frames.append(cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.int16))
    return [second - seconds[0] for second in seconds], frames


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
def test_real_videos(shared_data, tmp_path, every):
    videos = tmp_path / "videos"
    for folder in FOLDERS:
        files = sorted(path for path in (shared_data / folder).rglob("*") if path.is_file())
        if folder in FOLDERS[-2:] and not os.environ.get("MODIST_ALL_VIDEOS"):
            files = files[:: len(files) // 8]
        files = files[::every]
        for path in files:
            link = videos / folder / path.relative_to(shared_data / folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    config = PrepareConfig(videos, tmp_path / "store", short_side=48, workers=2, motion_inputs=())
    prepare(config, prepare_parts.opencv_edges)
    store = Store.open(tmp_path / "store")
    num_checked = 0
    for row, name in enumerate(store.videos):
        if "corrupted" in name or "truncated" in name or "flipped" in name:
            continue  # which frame is meant where some are missing is another test's question
        size = (int(store.width[row]), int(store.height[row]))
        seconds, frames = shown(videos / name, size)
        for grid_frame in range(0, int(store.num_frames[row]), 5):
            # Containers that count milliseconds round by half of one; the clock's ticks are 33 ms apart.
            meant = bisect_right(seconds, grid_frame * GRID / FPS + 0.0006) - 1
            (jpeg,) = store.read_frames(row, "rgb", [grid_frame])
            found = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)).astype(np.int16)
            near = range(max(0, meant - 3), min(len(frames), meant + 4))
            errors = {other: float(np.abs(found - frames[other]).mean()) for other in near}
            best = min(errors, key=errors.__getitem__)
            assert errors[meant] <= errors[best] + 0.35, f"{name}: grid frame {grid_frame} is {best}, not {meant}"
            assert errors[meant] < 8, f"{name}: grid frame {grid_frame} is another picture"
        num_checked += 1
    assert num_checked > 30 // every

"""The peers of bench_pipeline.py: a Dataset around each video library, as its users write it.

Each decodes, in one call of its library, the frames that the four clips of a sample need. Motion clips are plain
decoded frames made gray: none of the peers makes flow edges, which would cost them more, not less.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

VISUAL, MOTION = (8, 8), (16, 4)  # frames and stride of a clip
MEAN, STD = 0.45, 0.225
# Decoded (T, H, W, 3) uint8 of ascending source frames.
Decode = Callable[[str, list[int]], np.ndarray]


def decode_torchcodec(path: str, frames: list[int]) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1).get_frames_at(frames).data.numpy()


def decode_pyav(path: str, frames: list[int]) -> np.ndarray:
    """Seek to the key frame before the first, decode to the last; frames are told apart by their time stamps."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        assert stream.average_rate is not None
        assert stream.time_base is not None
        ticks = 1 / (stream.average_rate * stream.time_base)
        first = stream.start_time or 0
        if frames[0]:
            container.seek(int(first + frames[0] * ticks), stream=stream)
        wanted, found = set(frames), []
        for frame in container.decode(stream):
            assert frame.pts is not None
            number = round((frame.pts - first) / ticks)
            if number in wanted:
                found.append(frame.to_ndarray(format="rgb24"))
            if number >= frames[-1]:
                break
    return np.stack(found)


def decode_decord2(path: str, frames: list[int]) -> np.ndarray:
    decord: Any = importlib.import_module("decord")  # an extra, which type checkers may not find
    return decord.VideoReader(path, num_threads=1).get_batch(frames).asnumpy()


def decode_opencv(path: str, frames: list[int]) -> np.ndarray:
    """Jump to the first frame, grab the others, convert those that are wanted."""
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    capture.set(cv2.CAP_PROP_POS_FRAMES, frames[0])
    wanted, found = set(frames), []
    for number in range(frames[0], frames[-1] + 1):
        capture.grab()
        if number in wanted:
            found.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack(found)


DECODERS: dict[str, Decode] = {
    "torchcodec": decode_torchcodec,
    "pyav": decode_pyav,
    "decord2": decode_decord2,
    "opencv": decode_opencv,
}


class PeerClips(Dataset):
    """Samples of two RGB and two motion clips, drawn from a seed and the index."""

    def __init__(self, videos: list[Path], lengths: list[int], decoder: str, augment: bool, crop_size: int) -> None:
        self.videos, self.lengths, self.decode = videos, lengths, DECODERS[decoder]
        self.visual, self.motion = _transforms(augment, crop_size)
        self.augment, self.crop_size = augment, crop_size

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> dict[str, Any]:
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        video, clips = planned_frames(index, self.lengths)
        union = sorted(set(np.concatenate(clips).tolist()))
        place = {frame: row for row, frame in enumerate(union)}
        # An absolute path: the libraries' FFmpeg would take a name with a colon for an address.
        pixels = self.decode(str(self.videos[video].absolute()), union)
        rows = [[place[frame] for frame in clip.tolist()] for clip in clips]
        torch.manual_seed(index)
        return {
            "visual": torch.stack([self._clip(pixels[chosen], motion=False) for chosen in rows[:2]]),
            "motion": torch.stack([self._clip(pixels[chosen], motion=True) for chosen in rows[2:]]),
            "frames": [pixels[chosen[0]].mean() for chosen in rows],
        }

    def _clip(self, pixels: np.ndarray, motion: bool) -> torch.Tensor:
        """(C, T, S, S) float32."""
        tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return (self.motion if motion else self.visual)(tensor).transpose(0, 1)


def planned_frames(index: int, lengths: list[int]) -> tuple[int, list[np.ndarray]]:
    """The video of a sample, and the source frames of its two RGB and two motion clips."""
    rng = np.random.default_rng(index)
    video = index % len(lengths)
    clips = []
    for num_frames, stride in (VISUAL, VISUAL, MOTION, MOTION):
        span = (num_frames - 1) * stride
        start = rng.integers(0, max(1, lengths[video] - span))
        clips.append(np.minimum(start + stride * np.arange(num_frames), lengths[video] - 1))
    return video, clips


def _transforms(augment: bool, size: int) -> tuple[v2.Transform, v2.Transform]:
    steps: list[Any] = [v2.RandomResizedCrop(size, scale=(0.3, 1.0), ratio=(0.5, 2.0), antialias=False)]
    if augment:
        steps += [
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], 0.5),
        ]
    to_float = v2.ToDtype(torch.float32, scale=True)
    visual = v2.Compose([*steps, to_float, v2.Normalize([MEAN] * 3, [STD] * 3)])
    motion = v2.Compose([v2.Grayscale(), _SquareCrop(7 / 8), v2.Resize((size, size), antialias=False), to_float])
    return visual, motion


class _SquareCrop(torch.nn.Module):
    """A square of a share of the shorter side, anywhere."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        height, width = clip.shape[-2:]
        side = round(self.share * min(height, width))
        top, left = (int(torch.randint(room - side + 1, ())) for room in (height, width))
        return clip[..., top : top + side, left : left + side]

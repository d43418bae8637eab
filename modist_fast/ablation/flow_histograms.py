"""Histograms of flow, hand-made features: python -m modist_fast.ablation.flow_histograms STORE OUT.parquet

As Laptev et al. (CVPR 2008): the direction of motion in eight bins and one for what is still, counted in cells of a
3 × 3 × 3 grid over picture and time; beside each histogram the mean speed of its cell.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modist_pipelines.motion_inputs import FLOW_FULL_SCALE, find_motion_input
from modist_pipelines.store.reader import Store

_DIRECTIONS, _CELLS = 8, 3
_STILL = 0.5  # pixels per 5 frames, below which nothing moves


def flow_histograms(flow: np.ndarray) -> np.ndarray:
    """Features of a video.

    Args:
        flow: (T, H, W, 2) pixels, u to the right and v down.

    Returns:
        (27 * 10,) float32: of each cell the share of pixels in each direction, the share that is still, and the mean
        speed.
    """
    speed = np.hypot(flow[..., 0], flow[..., 1])
    turn = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
    bins = np.where(speed < _STILL, _DIRECTIONS, (turn * _DIRECTIONS).astype(int) % _DIRECTIONS)
    features = []
    for part in np.array_split(np.arange(len(flow)), _CELLS):
        for rows in np.array_split(np.arange(flow.shape[1]), _CELLS):
            for columns in np.array_split(np.arange(flow.shape[2]), _CELLS):
                # A video of two grid frames has an empty third: the whole of it then stands for that.
                place = np.ix_(part if len(part) else np.arange(len(flow)), rows, columns)
                counts = np.bincount(bins[place].ravel(), minlength=_DIRECTIONS + 1)
                features += [counts / counts.sum(), [speed[place].mean()]]
    return np.concatenate(features).astype(np.float32)


def stored_flow(store: Store, video: int) -> np.ndarray:
    """(T, H, W, 2) float32 pixels of a video's grid frames."""
    motion = find_motion_input("flow")
    jpegs = store.read_frames(video, motion.name, range(int(store.num_frames[video])))
    planes = [cv2.imdecode(np.asarray(jpeg), cv2.IMREAD_GRAYSCALE) for jpeg in jpegs]
    levels = np.stack([plane for plane in planes if plane is not None]) - np.float32(motion.zero)
    shares = levels / (255 - motion.zero)
    return np.moveaxis(shares.reshape(-1, motion.channels, *shares.shape[1:]), 1, -1) * np.float32(FLOW_FULL_SCALE)


def main(store_path: str, out: str) -> None:
    store = Store.open(Path(store_path))
    rows = [flow_histograms(stored_flow(store, video)) for video in range(store.num_videos)]
    features = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(rows)), len(rows[0]))
    pq.write_table(pa.table({"video": pa.array(list(store.videos)), "features": features}), out)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What the shape of the frames and the length of the video tell of the class, without a look at a picture.

Where crops or durations differ by class, as in UT-Interaction, a backbone's score must be seen beside this one.
"""

from collections.abc import Sequence

import numpy as np
import torch

from modist_fast.evaluation.data.labelled import LabelledVideos
from modist_fast.evaluation.frozen.config import LbfgsConfig
from modist_fast.evaluation.frozen.linear import fit_lbfgs

CUES = ("width", "height", "length")


def shape_features(labelled: LabelledVideos, videos: np.ndarray, cues: Sequence[str] = CUES) -> np.ndarray:
    """(n, F) float64: width, height and frames as stored, or some of these, their squares and products: all make 9."""
    infos = [labelled.info(video) for video in videos.tolist()]
    sizes = np.array([(info.width, info.height, info.num_frames) for info in infos], dtype=np.float64)
    sizes = np.log(sizes[:, [CUES.index(cue) for cue in cues]])  # a ratio is a difference then
    first, second = np.triu_indices(len(cues))
    return np.concatenate([sizes, sizes[:, first] * sizes[:, second]], axis=1)


def shape_probabilities(
    labelled: LabelledVideos, train: np.ndarray, test: np.ndarray, cues: Sequence[str] = CUES
) -> np.ndarray:
    """(m, K) from a logistic regression (C = 1) on the shapes alone, or on some of their cues."""
    features = shape_features(labelled, train, cues)
    classifier = fit_lbfgs(features, labelled.labels[train], LbfgsConfig(c=1.0), torch.device("cpu"))
    return classifier.probabilities(shape_features(labelled, test, cues), len(labelled.classes))

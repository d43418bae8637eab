"""Which videos train and which test: folds, a check that nothing leaks from one side to the other, low-shot subsets."""

import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np

from modist_fast.errors import ConfigError
from modist_fast.evaluation.config import SplitConfig
from modist_fast.evaluation.data.labelled import LabelledVideos

log = logging.getLogger("modist")
_NAMED = 5  # classes that a message gives


class Fold(NamedTuple):
    """One training part and its test part, as places in `LabelledVideos`, ascending."""

    name: str
    train: np.ndarray
    test: np.ndarray


def make_folds(config: SplitConfig, labelled: LabelledVideos) -> list[Fold]:
    """The folds of a protocol over all videos, odd ones too: `counted` leaves these out, where fitted and scored.

    Raises:
        ConfigError: no group or split column, a video in both parts.
    """
    folds = []
    for name, train, test in _sides(config, labelled):
        if both := np.flatnonzero(train & test).tolist():
            raise ConfigError(
                f"{labelled.names[both[0]]} is in the training and in the test part ({name}). "
                "Take it out of one, by the list or by --train-where and --test-where."
            )
        folds.append(Fold(name, np.flatnonzero(train), np.flatnonzero(test)))
    return folds


def without(videos: np.ndarray, odd: Collection[int]) -> np.ndarray:
    """(m,) of (n,) videos, those that are not odd."""
    return videos[~np.isin(videos, list(odd))]


def counted(folds: Sequence[Fold], odd: Collection[int], when_tested: Literal["wrong", "exclude"]) -> list[Fold]:
    """The folds as far as they count: training parts without odd videos, and where excluded, test parts too.

    Raises:
        ConfigError: a part in which there is no other video.
    """
    found = []
    for fold in folds:
        train, usable = without(fold.train, odd), without(fold.test, odd)
        if not len(train) or not len(usable):
            part = "test" if len(train) else "training"
            raise ConfigError(
                f"the {part} part of {fold.name} holds no video that can be used. "
                "Mend the list or --train-where and --test-where; the log names odd videos."
            )
        found.append(Fold(fold.name, train, fold.test if when_tested == "wrong" else usable))
    return found


def unlearnable(folds: Sequence[Fold], labelled: LabelledVideos) -> dict[str, list[str]]:
    """Of each fold that has any: the classes of its test part that its training part lacks."""
    labels = labelled.labels
    missing = {fold.name: np.setdiff1d(labels[fold.test], labels[fold.train]).tolist() for fold in folds}
    return {name: [labelled.classes[label] for label in found] for name, found in missing.items() if found}


def refuse_unlearnable(config: SplitConfig, folds: Sequence[Fold], labelled: LabelledVideos) -> dict[str, list[str]]:
    """`unlearnable`, said loudly, or an error where --odd-classes says so.

    Raises:
        ConfigError: names a fold and its classes.
    """
    found = unlearnable(folds, labelled)
    counts = {"wrong": "count as wrong", "exclude": "are left out of the score", "error": ""}[config.odd_classes]
    for fold, classes in found.items():
        what = f"{fold}: no training video has {len(classes)} of the tested classes ({', '.join(classes[:_NAMED])}"
        what += ", …)" if len(classes) > _NAMED else ")"
        if config.odd_classes == "error":
            raise ConfigError(f"{what}. Mend the list, or let --odd-classes say wrong or exclude.")
        log.warning("WARNING: %s. Their videos %s (--odd-classes).", what, counts)
    return found


def learnable(config: SplitConfig, folds: Sequence[Fold], labelled: LabelledVideos) -> list[Fold]:
    """The folds without test videos of classes that --odd-classes exclude leaves out.

    Raises:
        ConfigError: nothing is left.
    """
    if config.odd_classes != "exclude":
        return list(folds)
    labels = labelled.labels
    kept = [fold._replace(test=fold.test[np.isin(labels[fold.test], labels[fold.train])]) for fold in folds]
    if not any(len(fold.test) for fold in kept):
        raise ConfigError(
            "--odd-classes exclude leaves no test video: training has no class of a test part. "
            "Mend the list, or let --odd-classes say wrong."
        )
    return [fold for fold in kept if len(fold.test)]


def _sides(config: SplitConfig, labelled: LabelledVideos) -> list[tuple[str, np.ndarray, np.ndarray]]:
    if config.protocol == "split":
        train = labelled.matching(config.train_where, "--train-where")
        test = labelled.matching(config.test_where, "--test-where")
        name = f"{' '.join(config.train_where)} → {' '.join(config.test_where)}"
        if unused := int((~(train | test)).sum()):
            log.info("%d videos are in neither part of the split", unused)
        return [(name, train, test)]
    if labelled.groups is None:
        raise ConfigError(
            "--protocol leave-one-group-out needs a column of groups: pass --labels CSV with one, and its name as "
            f"--group-column. There are: {', '.join(sorted(labelled.columns))}."
        )
    groups = np.array(labelled.groups)
    if not (groups != "").all():
        nameless = labelled.names[int(np.flatnonzero(groups == "")[0])]
        raise ConfigError(f"--protocol leave-one-group-out: {nameless} has no group. Fill the column of groups.")
    if len(set(labelled.groups)) < 2:
        raise ConfigError("--protocol leave-one-group-out needs at least two groups.")
    return [(f"without {group}", groups != group, groups == group) for group in sorted(set(labelled.groups))]


class Leak(NamedTuple):
    """Something that is on both sides of a split."""

    fold: str
    what: str


def find_leaks(folds: Sequence[Fold], labelled: LabelledVideos) -> list[Leak]:
    """Groups, and copies of one video, that a fold has in its training and its test part."""
    leaks = []
    copies = _copies(labelled)
    for fold in folds:
        for what, keys in (("group", labelled.groups), ("videos of equal content", copies)):
            if keys is None:
                continue
            sides = [{keys[video]: video for video in side if keys[video]} for side in (fold.train, fold.test)]
            for key in sorted(sides[0].keys() & sides[1].keys()):
                train, test = (labelled.names[side[key]] for side in sides)
                named = f"group {key}" if what == "group" else what
                leaks.append(Leak(fold.name, f"{named}: {train} in training, {test} in the test part"))
    return leaks


def refuse_leaks(config: SplitConfig, folds: Sequence[Fold], labelled: LabelledVideos) -> list[Leak]:
    """`find_leaks`, which are an error unless --leaks says report.

    Raises:
        ConfigError: names the first.
    """
    leaks = find_leaks(folds, labelled)
    if leaks and config.leaks == "error":
        raise ConfigError(
            f"the split leaks in {len(leaks)} places. The first, {leaks[0].fold}: {leaks[0].what}. Mend the list, or "
            "pass --leaks report to go on and have them noted in the result."
        )
    for leak in leaks:
        log.warning("leak, %s: %s", leak.fold, leak.what)
    if labelled.groups is None:
        log.info("no column of groups: only copies of one video on both sides would have been noticed")
    return leaks


def _copies(labelled: LabelledVideos) -> list[str]:
    """For each video a name that its copies share, "" where it has none.

    Contents are compared only where copies could be: reading all files of a large set would take hours.
    """
    alike: dict[tuple, list[int]] = defaultdict(list)
    for video in labelled.usable().tolist():
        alike[labelled.likeness(video)].append(video)
    keys = [""] * len(labelled)
    for videos in alike.values():
        if len(videos) > 1:
            for video in videos:
                keys[video] = labelled.content(video)
    return keys


def low_shot_subset(train: np.ndarray, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A class-balanced part of the training videos; for one seed, each share's part is within those of larger shares.

    Args:
        train: (n,) videos of the training part.
        labels: (N,) of all videos.
        share: of each class, in (0, 1]. The number is rounded, and at least one a class (the paper's 1 % of UCF101).

    Returns:
        Ascending videos.
    """
    chosen = []
    for label in np.unique(labels[train]).tolist():
        members = train[labels[train] == label]
        order = np.random.default_rng([seed, label]).permutation(len(members))
        chosen.append(members[order[: max(1, round(share * len(members)))]])
    return np.sort(np.concatenate(chosen))

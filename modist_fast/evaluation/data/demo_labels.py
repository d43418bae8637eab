"""A list of labels for the demo's probe: the folders of a store's videos, a third of each class for the test."""

import csv
from collections import defaultdict
from pathlib import Path

from modist_pipelines.store.reader import Store

_LEAST = 3  # videos of a class: one is tested, and the others train


def write_labels(store: Path, path: Path) -> bool:
    """Write path, label and split of the videos whose class has enough of them.

    Returns:
        False, and nothing is written, where fewer than two classes have.
    """
    opened = Store.open(store)
    classes: dict[str, list[str]] = defaultdict(list)
    for name, label in zip(opened.videos, opened.labels, strict=True):
        if label:
            classes[label].append(str(name))
    kept = {label: sorted(names) for label, names in classes.items() if len(names) >= _LEAST}
    if len(kept) < 2:
        return False
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for label, names in sorted(kept.items()):
            for place, name in enumerate(names):
                writer.writerow([name, label, "test" if place % _LEAST == _LEAST - 1 else "train"])
    return True

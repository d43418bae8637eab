"""The split files of UCF101 and HMDB51."""

import re
from pathlib import Path

from modist_pipelines.errors import DataError
from modist_pipelines.lists.encoding import read_text
from modist_pipelines.lists.entry import Entry
from modist_pipelines.lists.table import numbered
from modist_pipelines.video.suffixes import is_media

UCF101_LINE = re.compile(r"(?:\./)?([^/\\\s]+)[/\\](v_\1[^/\\]*\.\w+)(?:\s+\d+)?", re.IGNORECASE)
HMDB51_NAME = re.compile(r"_test_split\d$")


def read_ucf101(path: Path, text: str) -> list[Entry]:
    """trainlist01.txt, testlist01.txt: the folder is the class, "g01" in the name the group within it.

    Raises:
        DataError: a line of another form.
    """
    entries = []
    for number, line in numbered(text):
        name = re.sub(r"\s+\d+$", "", line.strip()).replace("\\", "/").removeprefix("./")
        label = name.split("/")[0] if "/" in name else None
        if label is None or not is_media(name):
            raise DataError(
                f"{path}, line {number}, column 1: {line.strip()!r} is no line of UCF101. Write lines such as "
                "Archery/v_Archery_g01_c01.avi 3, or name another --list-format."
            )
        group = re.search(r"_(g\d+)_", name)
        columns = {"group": f"{label} {group[1]}"} if group else {}
        entries.append(Entry((name, Path(name).name), label, columns, number))
    return entries


def read_hmdb51(path: Path) -> list[Entry]:
    """brush_hair_test_split1.txt: "name.avi 1" (1 training, 2 test, 0 neither); the file's name is the class.

    Raises:
        DataError: a line of another form.
    """
    entries = []
    for file in sorted(path.glob("*_test_split*.txt")) if path.is_dir() else [path]:
        label = HMDB51_NAME.sub("", file.stem)
        for number, line in numbered(read_text(file)[0]):
            name, _, part = (cell.strip() for cell in line.strip().rpartition(" "))
            if part not in ("0", "1", "2") or not name:
                raise DataError(
                    f"{file}, line {number}, column 2: {line.strip()!r} is no line of HMDB51. Write a name, and 1 "
                    "for training, 2 for test or 0 for neither."
                )
            if part != "0":
                split = {"split": "train" if part == "1" else "test"}
                entries.append(Entry((f"{label}/{name}", name), label, split, number))
    return entries

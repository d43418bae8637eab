"""Which file is meant by a path in a list."""

import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from modist_pipelines.disk.names import file_path
from modist_pipelines.lists.entry import MEDIA_NAME, Entry
from modist_pipelines.remote import access
from modist_pipelines.remote.urls import url_of
from modist_pipelines.video.opener import is_video_place

_MOST_MISSES = 2000
_PLAIN_PATH = re.compile(r"[^/\\.][^/\\]*(/[^/\\.][^/\\]*)*")

_SUFFIX, _CASE, _TAIL, _DEEPER = (
    "under another suffix",
    "by other capitals or another form of Unicode",
    "without their first folders",
    "in a subfolder",
)


@dataclass(frozen=True)
class Resolved:
    """Which entries are there."""

    found: dict[str, list[Entry]]
    """By the name of their file, in the order of the list."""
    absent: list[tuple[Entry, str]]
    """With the reason."""
    ways: Counter[str]
    """How those were found that are not just where the list says."""


@dataclass
class Finder:
    """The files that a list may name.

    Args:
        is_there: whether a path under the root is one of them.
        all_names: paths under the root of all of them; asked for once some path is not there as it is written.
        root: the folder that paths are relative to, where it is known.
    """

    is_there: Callable[[str], bool]
    all_names: Callable[[], Iterable[str]]
    root: Path | None = None
    _shared: tuple[str, ...] = field(default=(), init=False)

    def exactly(self, entry: Entry) -> str | None:
        """The file that an entry names, but for separators, dots and an absolute path to the root."""
        for candidate in entry.candidates:
            for name in self._forms(candidate):
                if name and self.is_there(name):
                    return name
        return None

    def nearly(self, entry: Entry) -> tuple[str, str] | str:
        """The one file that an entry must mean, and how it differs; or why there is none."""
        if url_of(entry.candidates[0]) is not None:
            return "its server says that it is gone"
        problem = ""
        looked: set[str] = set()
        for candidate in entry.candidates:
            base = posixpath.basename(candidate)
            if base in looked:
                continue
            looked.add(base)
            parts = tuple(_parts(candidate))
            ranked = sorted(self._near(parts), reverse=True)
            if not ranked:
                continue
            looked.discard(base)
            best = [(name, way) for rank, name, way in ranked if rank == ranked[0][0]]
            if len(best) == 1:
                return best[0]
            problem = problem or f"it may be {best[0][0]} or {best[1][0]}: the list does not say which"
        return problem or "the list names it, and it is not there"

    def finds(self, entry: Entry) -> bool:
        """Whether the file of an entry is there."""
        return self.exactly(entry) is not None or not isinstance(self.nearly(entry), str)

    def resolve(self, entries: Sequence[Entry]) -> Resolved:
        """Find the files of all entries. A file that one of them names as it is goes to no other."""
        self._shared = _shared_folders(entry.candidates[0] for entry in entries)
        exact = [self.exactly(entry) for entry in entries]
        taken = {name for name in exact if name is not None}
        found: dict[str, list[Entry]] = {}
        absent: list[tuple[Entry, str]] = []
        ways: Counter[str] = Counter()
        for entry, name in zip(entries, exact, strict=True):
            if name is None:
                near = self.nearly(entry)
                if isinstance(near, str) or near[0] in taken:
                    absent.append((entry, near if isinstance(near, str) else f"{near[0]} is another row's"))
                    continue
                name, way = near
                ways[way] += 1
            found.setdefault(name, []).append(entry)
        return Resolved(found, absent, ways)

    def _forms(self, candidate: str) -> list[str]:
        if (url := url_of(candidate)) is not None:
            root = url_of(self.root) if self.root is not None else None
            return [url.removeprefix(f"{root}/")]
        if _PLAIN_PATH.fullmatch(candidate):
            return [candidate]
        forms = [candidate.removeprefix("./"), posixpath.normpath(candidate)]
        if "\\" in candidate:
            forms.append(posixpath.normpath(candidate.replace("\\", "/")))
        forms += [form[len(root) :] for root in self._roots for form in forms if form.startswith(root)]
        return [form for form in dict.fromkeys(forms) if not form.startswith("/")]

    @cached_property
    def _roots(self) -> set[str]:
        """The root with a stroke behind it, as it is called and as it is."""
        if self.root is None:
            return set()
        return {os.path.join(path, "") for path in (os.path.abspath(self.root), os.path.realpath(self.root))}

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = defaultdict(list)
        for name in self.all_names():
            names[_key(posixpath.basename(name))].append(name)
        return names

    def _near(self, parts: tuple[str, ...]) -> Iterable[tuple[tuple, str, str]]:
        """(rank, name, way) of the files that a path may mean; the higher the rank the nearer."""
        if not parts:
            return
        folders = [_plain(part) for part in parts[:-1]]
        for name in self._by_key.get(_key(parts[-1]), ()):
            *theirs, last = name.split("/")
            plain = [_plain(part) for part in theirs]
            num_same = 0
            while num_same < min(len(plain), len(folders)) and plain[-1 - num_same] == folders[-1 - num_same]:
                num_same += 1
            same_case = (*theirs, _stem(last)) == (*parts[:-1], _stem(parts[-1]))
            if num_same == len(folders) == len(plain):
                way = _SUFFIX if same_case else _CASE
            elif num_same == len(plain):
                dropped = len(folders) - num_same
                if parts[0] != "/" and dropped > len(self._shared):
                    continue
                way = _TAIL
            elif num_same == len(folders):
                way = _DEEPER
            else:
                continue
            same_suffix = MEDIA_NAME.search(parts[-1]) is None or last[-4:].lower() == parts[-1][-4:].lower()
            yield ((way != _DEEPER, num_same, same_suffix, same_case), name, way)


def finder_of_folder(root: Path, all_names: Callable[[], Iterable[str]]) -> Finder:
    """A finder of the files of a folder."""
    if (url := url_of(root)) is not None and not url.startswith("http"):
        return finder_of_names(access.listed(url), root)
    known: frozenset[str] = frozenset()
    num_misses = 0

    def is_there(name: str) -> bool:
        nonlocal known, num_misses
        if num_misses >= _MOST_MISSES and not name.startswith("..") and url_of(file_path(root, name)) is None:
            known = known or frozenset(all_names())  # cheaper by now than to ask for each
            return name in known
        is_file = "\0" not in name and is_video_place(file_path(root, name))
        num_misses += not is_file
        return is_file

    return Finder(is_there, all_names, root)


def finder_of_names(names: Iterable[str], root: Path | None = None) -> Finder:
    """A finder of the videos of a store, or of others that are known."""
    there = frozenset(names)
    return Finder(there.__contains__, lambda: there, root)


def common_folder(entries: Sequence[Entry]) -> Path | None:
    """The folder that holds all videos of a list of absolute paths, or of addresses on one server; None for other
    lists."""
    names = [entry.candidates[0] for entry in entries]
    if names and all(url_of(name) is not None for name in names):
        common = Path(os.path.commonpath([posixpath.dirname(str(Path(name))) for name in names]))
        return common if url_of(common) is not None else None
    if not names or not all(name.startswith("/") for name in names):
        return None
    return Path(os.path.commonpath([posixpath.dirname(name) for name in names]))


def _shared_folders(names: Iterable[str]) -> tuple[str, ...]:
    """The folders that all paths of a list begin with."""
    shared: tuple[str, ...] | None = None
    for name in names:
        folders = tuple(_parts(name))[:-1]
        if shared is None:
            shared = folders
        same = [a for a, b in zip(shared, folders, strict=False)]
        num = next((i for i, (a, b) in enumerate(zip(shared, folders, strict=False)) if a != b), len(same))
        shared = shared[:num]
    return shared or ()


def _parts(name: str) -> list[str]:
    """Folders and name; an absolute path's begin with "/"."""
    name = re.sub(r"^[A-Za-z]:(?=[\\/])", "", name.strip())
    is_absolute = name.startswith(("/", "\\"))
    parts = [part for part in posixpath.normpath(name.replace("\\", "/")).split("/") if part not in ("", ".", "..")]
    return ["/", *parts] if is_absolute else parts


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _stem(name: str) -> str:
    return MEDIA_NAME.sub("", name)


def _key(name: str) -> str:
    return _plain(_stem(name))

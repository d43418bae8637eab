"""What all bytes of a store depend on: the options that a store, finished or half made, holds a later run to."""

import json
from pathlib import Path
from typing import Any, Literal, Protocol

from modist_pipelines.store.reader import META_NAME, PARTIAL_NAME, StoreMeta
from modist_pipelines.video.picture import RULES, PictureRules

PLAN_NAME = "plan.json"
OPTIONS = ("short_side", "fps", "grid", "jpeg_quality", "flow", "sobel_gain", "border", "frames_fps")
PICTURE_OPTIONS = ("aspect", "untagged_hd", "size_change")
AspectOption = Literal["auto", "display", "storage"]
SizeChangeOption = Literal["auto", "refuse", "scale"]


class PictureOptions(Protocol):
    """The options of `PrepareConfig` that rules follow from."""

    @property
    def out(self) -> Path: ...
    @property
    def aspect(self) -> AspectOption: ...
    @property
    def size_change(self) -> SizeChangeOption: ...


def picture_rules(options: PictureOptions) -> PictureRules:
    """The rules of a run: those asked for, else those of the store that is there, else the present ones.

    A store from before there were such rules says nothing of them; it keeps the ones that it was made with.
    """
    noted = _noted(options.out)
    if noted is None:
        there = RULES
    else:
        there = PictureRules(**{name: noted.get(name, getattr(StoreMeta, name)) for name in PICTURE_OPTIONS})
    return PictureRules(
        aspect=there.aspect if options.aspect == "auto" else options.aspect,
        untagged_hd=there.untagged_hd,
        size_change=there.size_change if options.size_change == "auto" else options.size_change,
    )


def with_picture_rules(noted: dict[str, Any]) -> dict[str, Any]:
    """A plan as noted by a run, with what it leaves unsaid where there were no rules yet."""
    return {name: getattr(StoreMeta, name) for name in (*PICTURE_OPTIONS, "frames_fps")} | noted


def _noted(store: Path) -> dict[str, Any] | None:
    for path in (store / META_NAME, store / PARTIAL_NAME / PLAN_NAME):
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # whoever opens it says what is wrong with it
            continue
        return noted if isinstance(noted, dict) else None
    return None

"""Every number among the options has a range: what is outside is refused, in one line, before anything is opened."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modist_fast.config import TrainConfig, check
from modist_fast.errors import ConfigError
from modist_fast.host.distributed import join_world
from modist_fast.presets import PRESETS
from modist_pipelines.ranges import COUNT, FROM_ZERO, MOMENTUM, POSITIVE, SHARE

# Options of which 0 means something, as their help says; of every other number 0 is refused.
ZERO_MEANS = {
    "cross_warmup_epochs": "no ramp",
    "key_momentum": "keys of the net itself",
    "lr": "nothing is learned, the baseline of a benchmark",
    "momentum": "plain SGD",
    "weight_decay": "none",
    "warmup_epochs": "no warm-up",
    "warmup_start_lr": "from nothing",
    "min_shift_seconds": "any",
    "max_shift_seconds": "any",
    "motion_threshold": "any window",
    "num_threads": "chosen",
    "prefetch": "chosen",
    "hang_minutes": "never",
    "hw_decoder_load": "host threads alone",
    "start": "the first step",
    "seed": "a seed",
    "groups_together": "chosen",
    "flip": "never",
    "motion_flip": "never",
    "color": "never",
    "color_strength": "no change",
    "gray": "never",
    "blur": "never",
    "blur_window": "as its sigma asks",
    "mean": "no shift",
}


def small(tmp_path: Path) -> TrainConfig:
    return PRESETS["demo"](tmp_path, tmp_path / "run")


def numbers(options: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, (*path, field.name))
        elif "Literal" not in str(field.type) and any(kind in str(field.type) for kind in ("int", "float")):
            yield (*path, field.name), value


def changed(options: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    inner = changed(getattr(options, name), tuple(rest), value) if rest else value
    return dataclasses.replace(options, **{name: inner})


OPTIONS = dict(numbers(PRESETS["demo"](Path(), Path())))


def test_the_walk_sees_them() -> None:
    assert len(OPTIONS) > 45
    names = {path[-1] for path in OPTIONS}
    assert {"epochs", "max_steps", "lr", "key_momentum", "num_frames", "crop_area", "every", "read_patience"} <= names
    assert ZERO_MEANS.keys() <= names


@pytest.mark.fault
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1, 0], ids=str)
@pytest.mark.parametrize("path", OPTIONS, ids=".".join)
def test_what_no_option_takes_is_refused_by_name(path: tuple[str, ...], bad: float, tmp_path: Path) -> None:
    before = OPTIONS[path]
    value = (bad, before[1]) if isinstance(before, tuple) else bad
    config = changed(small(tmp_path), path, value)
    if bad == 0 and path[-1] in ZERO_MEANS:
        check(config, 1)
        return
    with pytest.raises(ConfigError) as caught:
        check(config, 1)
    message = str(caught.value)
    assert message.startswith(f"--{'.'.join(path).replace('_', '-')} ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("option", "value"),
    [("key_momentum", 1.5), ("key_momentum", 1.0), ("temperature", 1e400), ("temperature", -0.1)],
)
def test_what_used_to_train(option: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--objective.{option.replace('_', '-')} {value}: it must be"):
        check(changed(small(tmp_path), ("objective", option), value), 1)


def test_ends_belong_to_a_range_as_it_says() -> None:
    inside = {COUNT: (1, 7), FROM_ZERO: (0, 3.5), POSITIVE: (1e-9,), MOMENTUM: (0, 0.999), SHARE: (0, 1)}
    outside = {COUNT: (0.5,), FROM_ZERO: (-1e-9,), POSITIVE: (0,), MOMENTUM: (1,), SHARE: (1.01, -0.01)}
    assert all(within.holds(value) for within, values in inside.items() for value in values)
    assert not any(within.holds(value) for within, values in outside.items() for value in values)
    assert str(MOMENTUM) == "at least 0 and below 1"


@pytest.mark.fault
def test_out_that_is_a_file_is_refused_before_the_store_is_opened(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigError, match=r"--out .*run is a file"):
        check(small(tmp_path), 1)
    with pytest.raises(ConfigError, match=r"--out .*run/inner cannot be made: .*run is a file"):
        check(dataclasses.replace(small(tmp_path), out=tmp_path / "run" / "inner"), 1)


@pytest.mark.fault
def test_half_a_launchers_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"RANK is set, but MASTER_ADDR, .*torchrun"), join_world("cpu"):
        pass

"""Recipes that follow the number of videos: what they come to, and that real videos train by them."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from clip_store import make_store

from modist_fast.commands import prepare as prepare_command
from modist_fast.commands.pretrain import follow_videos
from modist_fast.config import check
from modist_fast.errors import ConfigError
from modist_fast.presets import PRESETS, find_preset, store_options
from modist_fast.run.few_videos import fitted
from modist_pipelines.plan import eligible_videos


def tiny(out: Path, **changes):
    return replace(find_preset("tiny")(out / "store", out / "run"), **changes)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_videos", range(8, 64))
def test_any_number_of_videos_from_eight_on_makes_a_run(num_videos, world_size, tmp_path):
    config = tiny(tmp_path)
    found = fitted(config, num_videos, world_size)
    check(found, world_size)
    assert found.batch_size <= num_videos
    if num_videos >= config.batch_size:
        assert found == config
        return
    # No other multiple of the group fits in between, and a bank keeps no keys older than three epochs.
    assert num_videos - found.batch_size < found.group_size * world_size
    assert found.batch_size <= found.objective.bank_size <= 3 * found.batch_size
    assert found.batch_size >= 2 * found.group_size, "ShuffleBN needs two groups"


def test_only_where_it_is_asked_for(tmp_path):
    config = tiny(tmp_path, follow_videos=False)
    assert fitted(config, 8, 1) == config
    assert fitted(tiny(tmp_path), 3, 1) == tiny(tmp_path), "too few for anything: the loader says how many there are"
    following = [name for name, recipe in PRESETS.items() if recipe(None, tmp_path).follow_videos]
    assert following == ["demo", "tiny"]


def test_usable_videos_count_and_the_change_is_said_once(tmp_path, caplog):
    """Eleven videos, of which three stand still below γ."""
    store = make_store(tmp_path / "store", [40] * 8 + [4] * 3)
    config = tiny(tmp_path)
    with caplog.at_level(logging.INFO, "modist"):
        found = follow_videos(config, store, 1)
    usable = len(eligible_videos(store, config.plan(store.grid, store.fps)).videos)
    assert found == fitted(config, usable, 1) != config
    said = [record.message for record in caplog.records if "follows them" in record.message]
    assert len(said) == 1
    assert f"{usable} usable videos" in said[0]
    assert f"--batch-size {found.batch_size} " in said[0]
    subset = replace(config, clips=replace(config.clips, subset=9))
    assert follow_videos(subset, store, 1).batch_size <= 9


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_store_prepared_for_a_preset_is_what_it_trains_from(name, tmp_path):
    config = prepare_command.parse(["VIDEOS", "--out", str(tmp_path), "--for", name])
    recipe = find_preset(name)(None, tmp_path)
    assert config.short_side > recipe.clips.crop_size
    for clip in (recipe.clips.visual, recipe.clips.motion) if recipe.objective.motion else (recipe.clips.visual,):
        assert clip.stride % config.grid == 0
    assert config.motion_inputs == ((recipe.motion_input,) if recipe.objective.motion else ())
    assert store_options(name)["short_side"] == config.short_side


def test_an_option_beats_the_preset_and_an_unknown_one_is_named(tmp_path):
    words = ["VIDEOS", "--out", str(tmp_path)]
    assert prepare_command.parse([*words, "--for", "tiny", "--short-side", "112"]).short_side == 112
    assert prepare_command.parse([*words, "--for", "small"]).grid == 2
    assert (prepare_command.parse(words).grid, prepare_command.parse(words).short_side) == (4, 256)
    with pytest.raises(ConfigError, match=r"no such preset\. Did you mean tiny"):
        prepare_command.parse([*words, "--for", "tny"])

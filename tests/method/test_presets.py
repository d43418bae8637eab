"""The presets: what each recipe says, beside the sentences that it comes from."""

from pathlib import Path

from modist_fast.presets import PRESETS
from modist_fast.run.checkpoint import plain_config
from modist_fast.run.options import spelled


def values(preset: str) -> dict:
    return spelled(plain_config(PRESETS[preset](None, Path("run"))))


def test_all_presets_take_the_negatives_that_learn_but_the_one_that_is_equation_two() -> None:
    own = {name for name in PRESETS if values(name)["objective.cross-negatives"] == "own"}
    assert own == {"modist-r50-eq2"}
    ours, printed = values("modist-r50"), values("modist-r50-eq2")
    assert {name for name in ours if ours[name] != printed[name]} == {
        "preset",
        "objective.cross-negatives",
        "objective.cross-warmup-epochs",
    }

"""The presets: what each recipe says, beside the sentences that it comes from."""

from pathlib import Path

from modist_fast.commands.pretrain import own_options, parse
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


def test_a_run_says_the_options_that_are_its_own(tmp_path):
    words = ["--preset", "demo", "--store", str(tmp_path), "--out", str(tmp_path / "run"), "--optim.lr", "0.5"]
    lines = own_options(parse(words)).splitlines()
    assert [line.split() for line in lines[:-1]] == [
        ["store", str(tmp_path)],
        ["out", str(tmp_path / "run")],
        ["optim.lr", "0.5"],
    ]
    assert lines[-1].endswith(f"other options as --preset demo has them: {tmp_path / 'run' / 'config.json'}")

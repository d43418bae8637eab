"""Steps of a run taken again: the same to the last bit, and a wrong batch is found."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from modist_fast.commands.verify import VerifyConfig, verify
from modist_fast.errors import ConfigError
from modist_fast.host.distributed import join_world
from modist_fast.watch.ledger import read_ledger
from modist_fast.watch.run_log import read_metrics
from tests.commands.launching import run_script, run_words, script_command
from tests.commands.test_beginning import pretrain, small

pytestmark = [pytest.mark.slow, pytest.mark.fault]


@pytest.fixture(scope="module")
def finished(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps in two attempts, saved at 2, 4 and 6."""
    run = tmp_path_factory.mktemp("finished") / "run"
    config = small(demo_store, run)
    config = replace(config, checkpoint=replace(config.checkpoint, every=2, keep=2))
    pretrain(replace(config, max_steps=4))
    pretrain(replace(config, max_steps=6, resume="auto"))
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def verified(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def take(run: Path, **options: object) -> tuple[int, str]:
        with join_world("cpu") as world:
            code = verify(VerifyConfig(run, device="cpu", **options), world)  # pyright: ignore[reportArgumentType]
        return code, capsys.readouterr().out

    return take


def edit(path: Path, step: int, **values: object) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["step"] == step and "begun" not in row:
            row.update(values)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_ledger_has_each_step_once_and_both_attempts(finished: Path) -> None:
    found = read_ledger(finished)
    assert [after for after, _ in found.begun] == [0, 4]
    assert list(found.steps) == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in found.steps.values()] == [
        row["loss"] for row in read_metrics(finished / "metrics.jsonl")
    ]
    assert len({row["samples"] for row in found.steps.values()}) == 6


@pytest.mark.parametrize(("step", "first"), [(None, 5), (3, 1)])
def test_a_run_is_what_it_says_to_the_last_bit(
    run: Path, step: int | None, first: int, verified: Callable[..., tuple[int, str]]
) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, said = verified(run, step=step)
    assert (code, f"steps {first} to {step or 6} are what was recorded, bit for bit" in said) == (0, True), said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("ledger.jsonl", {"samples": "0" * 16}, "step 6: other samples were drawn"),
        ("ledger.jsonl", {"figures": "0" * 16}, "step 6: the loss is the same, but another figure is not"),
        ("ledger.jsonl", {"loss": 1.0}, "step 6: metrics.jsonl has a loss of"),
        ("metrics.jsonl", {"loss": 1.0}, "step 6: metrics.jsonl has a loss of 1.0"),
    ],
)
def test_an_edited_step_is_named(
    file: str, values: dict, words: str, run: Path, verified: Callable[..., tuple[int, str]]
) -> None:
    edit(run / file, 6, **values)
    code, said = verified(run)
    assert code == 1
    assert words in said


def test_a_loss_that_both_files_agree_on_is_still_no_other(run: Path, verified: Callable[..., tuple[int, str]]) -> None:
    loss = read_metrics(run / "metrics.jsonl")[4]["loss"]
    for file in ("ledger.jsonl", "metrics.jsonl"):
        edit(run / file, 5, loss=loss * (1 + 1e-6))
    code, said = verified(run)
    assert code == 1
    assert f"step 5: the loss was {loss * (1 + 1e-6)!r}, and is {loss!r} in the replay" in said


def test_the_same_videos_in_another_order_are_found(
    demo_store: Path, run: Path, tmp_path: Path, verified: Callable[..., tuple[int, str]]
) -> None:
    other = tmp_path / "store"
    shutil.copytree(demo_store, other)
    table = pq.read_table(other / "index.parquet")
    pq.write_table(table.take(list(reversed(range(len(table))))), other / "index.parquet", write_page_checksum=True)
    code, said = verified(run, store=other)
    assert code == 1
    assert "step 5: the loss was" in said
    assert "the videos are others than the run's, or in another order" in said


def test_steps_of_before_there_were_ledgers_are_taken_again_and_not_compared(
    run: Path, verified: Callable[..., tuple[int, str]]
) -> None:
    ledger = run / "ledger.jsonl"
    ledger.write_text("".join(line for line in ledger.open() if json.loads(line)["step"] > 4 or '"begun"' in line))
    ledger.write_text("".join(list(ledger.open())[1:]))
    (run / "checkpoints" / "step-00000004.pt").unlink()
    code, said = verified(run)
    assert (code, "steps 5 to 6 are what was recorded, bit for bit" in said) == (0, True), said


@pytest.mark.long
def test_another_number_of_processes_is_near(demo_store: Path, tmp_path: Path) -> None:
    """Recorded by two; taken again by two, and by one."""
    run = tmp_path / "run"
    options = "--preset demo --precision fp32 --device cpu --batch-size 8 --group-size 4 --model.visual-width 8"
    more = "--clips.crop-size 32 --objective.bank-size 16 --max-steps 3 --optim.lr 0.004 --optim.warmup-epochs 0"
    words = [*options.split(), *more.split(), "--store", demo_store, "--out", run]
    made = run_script("pretrain.py", *words, processes=2)
    assert made.returncode == 0, made.stderr
    for processes, ending in ((2, "are what was recorded, bit for bit\n"), (None, "are what was recorded\n")):
        command = script_command("pretrain.py", processes=processes)
        done = run_words([*command[:-1], "-m", "modist_fast", "verify", str(run), "--device", "cpu"])
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"steps 1 to 3 {ending}" in done.stdout


def test_what_cannot_be_taken_again_is_said(run: Path, tmp_path: Path) -> None:
    with join_world("cpu") as world:
        with pytest.raises(ConfigError, match=r"--step 9: .*has steps 1 to 6"):
            verify(VerifyConfig(run, step=9), world)
        with pytest.raises(ConfigError, match=r"ledger.jsonl cannot be read .*older versions have none"):
            verify(VerifyConfig(tmp_path), world)
        (run / "ledger.jsonl").write_text("[]\n")
        with pytest.raises(ConfigError, match=r"ledger.jsonl is damaged in line 1"):
            verify(VerifyConfig(run), world)

"""Take steps of a run again and compare: [torchrun … -m modist_fast | modist] verify RUN [--step N]"""

import dataclasses
import json
import logging
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from modist_fast.commands.cli import parse_options
from modist_fast.commands.pretrain import open_source
from modist_fast.config import TrainConfig, check
from modist_fast.errors import ConfigError
from modist_fast.host.arithmetic import arithmetic_of, computing
from modist_fast.host.choices import COLLECTIVE_TIMEOUT, DeviceOption
from modist_fast.host.distributed import World, join_world, on_main
from modist_fast.init_from import read_beginning
from modist_fast.run import checkpoint
from modist_fast.run.options import from_plain
from modist_fast.trainer import Trainer
from modist_fast.watch.ledger import Begun, Entries, first_difference, read_ledger
from modist_fast.watch.run_log import read_metrics
from modist_pipelines.ranges import COUNT, ranged

log = logging.getLogger("modist")
_MACHINE = ("processes", "device", "threads", "precision", "tf32", "deterministic", "groups_of_a_pass", "torch")
"""Of `Begun`: where one of them differs, sums are rounded otherwise."""


@dataclass(frozen=True)
class VerifyConfig:
    """Take steps of a pre-training run again, from the nearest checkpoint before them, and compare what they come to.

    Exit code 1 where they come to something else: the first step that does is named. RUN stays as it is.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run directory."""
    step: int | None = ranged(None, COUNT)
    """The last step to take again; by default the last that was recorded."""
    store: Path | None = None
    """Where the store is now, if it was moved."""
    device: DeviceOption = "auto"
    """Where to compute. auto: on a GPU where there is one that torch can use."""
    collective_timeout: float = ranged(COLLECTIVE_TIMEOUT, COUNT)
    """Seconds that a process waits for the others in one exchange before it gives up."""


class _Replay(Trainer):
    """Takes steps and writes what they came to into a folder of its own, and nothing else."""

    def restore(self, state: dict[str, Any] | None) -> None:
        """Begin with the state of a checkpoint; None begins as the run did."""
        if state is not None:
            self._take_over(state)
        elif (begin_from := read_beginning(self.config, self.world)) is not None:
            begin_from(self.step.model)

    def replay(self) -> None:
        try:
            self._loop()
        finally:
            self.loader.close()

    def _save(self) -> None:
        pass


def main() -> int:
    config = parse_options(VerifyConfig, description=VerifyConfig.__doc__)
    with join_world(config.device, config.collective_timeout) as world:
        if not world.is_main:
            log.setLevel(logging.WARNING)
        return verify(config, world)


def verify(config: VerifyConfig, world: World) -> int:
    """The exit code.

    Raises:
        ConfigError: the run cannot be taken again.
    """
    run = config.run
    entries = read_ledger(run)
    last = config.step or max(entries.steps, default=0)
    if last not in entries.steps:
        raise ConfigError(
            f"--step {last}: {run / 'ledger.jsonl'} has steps 1 to {max(entries.steps, default=0)}. Name one of them."
        )
    path = nearest(run, last)
    state = checkpoint.read(path, world.device) if path is not None else None
    first = (state["step"] if state is not None else 0) + 1
    attempts = entries.attempts(first, last)
    folder = Path(on_main(world, lambda: tempfile.mkdtemp(prefix="modist-verify-")))
    try:
        trained = config_of(config, folder, last, attempts, path)
        check(trained, world.size)
        torch.set_num_threads(attempts[-1].threads)
        trainer = _Replay(trained, world, open_source(trained, world.device), lambda *_: None)
        trainer.restore(state)
        begun = trainer.begun()
        differ = [name for name in _MACHINE if any(getattr(begun, name) != getattr(one, name) for one in attempts)]
        exact = not differ and (world.device.type == "cpu" or trained.deterministic)
        if world.is_main:
            log.info("%s", _said(run, path, first, last, exact, differ))
        with computing(arithmetic_of(trained)):
            trainer.replay()
        noted = max(first, entries.begun[0][0] + 1)  # an older version took the steps before, and noted none
        return on_main(world, lambda: _judge(run, entries, read_ledger(folder), range(noted, last + 1), exact))
    finally:
        on_main(world, lambda: shutil.rmtree(folder, ignore_errors=True))


def nearest(run: Path, step: int) -> Path | None:
    """The last whole checkpoint before a step; None takes all of it from the run's beginning."""
    before = [path for path in checkpoint.newest_first(checkpoint.folder_of(run)) if checkpoint.step_of(path) < step]
    for path in before:
        try:
            checkpoint.read(path, torch.device("cpu"))
        except ConfigError as error:
            log.warning("WARNING: passed over: %s", error)
            continue
        return path
    return None


def config_of(
    config: VerifyConfig, folder: Path, last: int, attempts: Sequence[Begun], path: Path | None
) -> TrainConfig:
    """The options of the run, with a folder of the replay's own.

    Raises:
        ConfigError: they cannot be read, or the schedule changed on the way.
    """
    file = config.run / "config.json"
    try:
        saved: TrainConfig = from_plain(TrainConfig, json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{file} cannot be read as the options of a run ({error}). Bring back an intact copy."
        ) from error
    schedules = {begun.epochs for begun in attempts}
    if len(schedules) > 1:
        raise ConfigError(
            f"steps from {path or 'the beginning'} to {last} were taken with --epochs of "
            f"{' and '.join(map(str, sorted(schedules)))}, and no checkpoint lies between them. Verify another --step."
        )
    return dataclasses.replace(
        saved,
        store=config.store or saved.store,
        out=folder,
        device=config.device,
        epochs=schedules.pop(),
        max_steps=last,
        init_from=None if path is not None else saved.init_from,
        resume="no",
        overwrite=False,
        profile=type(saved.profile)(),
        track="none",
    )


def _said(run: Path, path: Path | None, first: int, last: int, exact: bool, differ: Sequence[str]) -> str:
    how = (
        "every bit is compared"
        if exact
        else "losses are compared, the first three to 2e-5 of their size and all to 1e-3, since "
        + (
            f"{', '.join(differ)} differ from what was recorded"
            if differ
            else "a GPU adds in another order each time, unless a run is --deterministic"
        )
    )
    return f"{run}: steps {first} to {last} again, from {path or 'the beginning'}; {how}"


def _judge(run: Path, then: Entries, now: Entries, steps: range, exact: bool) -> int:
    metrics = {row["step"]: row.get("loss", math.nan) for row in read_metrics(run / "metrics.jsonl")}
    wrong = first_difference(steps, then.steps, now.steps, metrics, exact)
    if wrong is None:
        print(f"{run}: steps {steps[0]} to {steps[-1]} are what was recorded" + (", bit for bit" if exact else ""))
        return 0
    recorded, found = then.attempts(steps[0], steps[-1])[-1], now.begun[0][1]
    notes = {
        "content": "the videos are others than the run's, or in another order",
        "plan": "clips are drawn by another rule, seed or choice of videos than the run's",
        "git_revision": f"the code is {found.git_revision}, where it was {recorded.git_revision}",
    }
    others = [note for name, note in notes.items() if getattr(recorded, name) != getattr(found, name)]
    print("; ".join([f"{run}: {wrong}", *others]))
    return 1

"""The loop under pre-training and fine-tuning: steps, checkpoints, a clean stop, an exact resume."""

import json
import logging
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch.distributed as dist

from modist_fast.errors import DivergedError
from modist_fast.host.distributed import World, on_main
from modist_fast.host.interrupts import Interrupted, noted
from modist_fast.host.writer import Writer
from modist_fast.run import checkpoint
from modist_fast.run.beginning import resume
from modist_fast.run.log_file import begin_log
from modist_fast.run.out_of_memory import OutOfMemoryError, during_steps, shortage
from modist_fast.run.whole_state import SaveError, snapshot
from modist_fast.watch.hang import HangWatcher
from modist_fast.watch.late import LateLines
from modist_fast.watch.run_log import RunLog
from modist_fast.watch.spans import annotate

log = logging.getLogger("modist")
_PARTS = ("model", "optimizer", "scaler")  # of a step, and under the same names of a checkpoint
Config = TypeVar("Config", bound=checkpoint.RunConfig)
Batch = TypeVar("Batch")


class TrainingLoop(ABC, Generic[Config]):
    """One process's part of a run; trainers say what is theirs alone.

    Args:
        out: the run directory.

    Attributes:
        step: the trainer's own: the nets, the optimizer, and how a batch changes them.
        last_step: after which the run is over; set by the trainer.
        steps_done: those of earlier attempts included.
    """

    step: Any
    last_step: int

    def __init__(self, config: Config, world: World, out: Path) -> None:
        self.config, self.world, self.out = config, world, out
        self.steps_done = self._saved_at = 0
        self._stop_requested = False
        self._signal = signal.SIGTERM  # that stopped this rank, or another
        self._writer = Writer("checkpoint")

    @abstractmethod
    def _own_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the state of the step, a fingerprint of the data in it."""

    @abstractmethod
    def _memory_options(self) -> str:
        """The options by which a step takes less memory, and their values, for an error."""

    @abstractmethod
    def _agree(self) -> None:
        """Bring the ranks' nets to one state, before it is saved."""

    def _take_steps(
        self, batches: Callable[[], Iterator[Batch]], take: Callable[[Batch], None], lines: LateLines
    ) -> None:
        """Take all steps, or those until a signal, and save now and then; the last ones may not be saved yet.

        Args:
            batches: those of the steps that are left.
            take: changes the weights by a batch, and gives `lines` what it came to.
        """
        spans = getattr(self.step, "spans", None)
        begun = self.steps_done
        limit, phase = 60 * self.config.hang_minutes, (lambda: spans.phase) if spans is not None else str
        try:
            with HangWatcher(self.out, self.world.rank, self.world.size, limit, phase) as watcher:
                watcher.moved(self.steps_done)
                for (
                    batch
                ) in batches():  # held by no name: where a step fails, their reader ends before the error goes on
                    with annotate("step"):
                        take(batch)
                        self.steps_done += 1
                        if self.steps_done % self.config.checkpoint.every == 0 or self.steps_done == self.last_step:
                            lines.flush()  # where the loss is not finite, to say so is clearer than to name tensors
                            self._save()
                    watcher.moved(self.steps_done)
                    if lines.stop_agreed:
                        break
                lines.flush()
        except DivergedError as error:
            self._end_writing()
            raise DivergedError(f"{error} Then go on with --resume auto: {checkpoint.kept(self.out)}") from error
        except Exception as error:
            self._end_writing()
            if (lacking := shortage(error)) is None:
                raise
            ended = during_steps(error, lacking, self.world.rank, self.steps_done + 1, begun, self._memory_options())
            raise OutOfMemoryError(f"{ended} Then go on with --resume auto: {checkpoint.kept(self.out)}") from error
        except BaseException:
            self._end_writing()
            raise

    def _end_writing(self) -> None:
        """Another error is on its way: let the file being written become whole, and only log where it cannot."""
        try:
            self._writer.wait()
        except Exception as error:
            log.error("%s", error)

    def _end(self) -> None:
        """Wait until what was saved is on disk.

        Raises:
            Interrupted: on every rank, where a signal to any of them came before the last step.
        """
        on_main(self.world, self._written)
        if self.steps_done < self.last_step:
            dist.barrier()  # gloo aborts a process whose peer has left
            raise Interrupted(
                self._signal,
                f"Saved after step {self.steps_done} of {self.last_step}; go on with --resume auto.",
                self.config.requeue_exit_code,
            )

    def _written(self) -> None:
        """Wait for the last checkpoint. A run that ends without it has not done what it says, whatever the option."""
        self._writer.wait()

    def _save(self) -> None:
        """Hand a checkpoint to the writing thread, unless that of the last step done was handed to it."""
        if self._saved_at == self.steps_done:
            return
        self._agree()
        on_main(self.world, self._write_checkpoint)
        self._saved_at = self.steps_done

    def _write_checkpoint(self) -> None:
        state = {name: getattr(self.step, name).state_dict() for name in _PARTS} | self._own_state()
        try:
            self._writer.wait()
        except SaveError as error:
            if self.config.checkpoint.on_save_error == "stop":
                raise
            log.error("%s", error)
        checkpoint.refuse_flaw(self.out, self.steps_done, state)
        step, kept = self.steps_done, snapshot(state)
        self._writer.begin(lambda: checkpoint.save(self.out, step, kept, self.config))

    def _resume(self, identity: Mapping[str, Callable[[], str]], begun_with: str) -> dict[str, Any] | None:
        """Go on from the checkpoint that there is; arguments as for `run.beginning.resume`.

        Returns:
            Its whole state; None where the run begins.
        """
        found = resume(self.out, self.config, self.world, identity, begun_with)
        begin_log()
        if found is None:
            return None
        path, state = found
        self._take_over(state)
        self._say(f"resumed after step {self.steps_done} from {path}")
        return state

    def _take_over(self, state: dict[str, Any]) -> None:
        """Go on from a state that was read."""
        for name in _PARTS:
            getattr(self.step, name).load_state_dict(state[name])
        self.steps_done = self._saved_at = state["step"]

    def _run_log(self) -> AbstractContextManager[RunLog | None]:
        return RunLog(self.out, self.steps_done) if self.world.is_main else nullcontext()

    def _write_json(self, name: str, value: dict[str, Any]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    def _stopped_by_signals(self) -> AbstractContextManager[None]:
        """SIGTERM, SIGUSR1 and a first Ctrl-C end the loop in here after a step."""
        in_main = threading.current_thread() is threading.main_thread()  # Python takes signals nowhere else
        return noted(self._request_stop) if in_main else nullcontext()

    def _request_stop(self, signum: int) -> None:
        self._stop_requested, self._signal = True, signal.Signals(signum)

    def _say(self, message: str) -> None:
        if self.world.is_main:
            log.info(message)

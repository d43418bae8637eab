"""The loop around the step: batches in, a line a step out, checkpoints, a clean stop, an exact resume."""

import json
import logging
import signal
from pathlib import Path
from typing import Any

import torch

from modist_fast.batch_norm import agree_on_statistics
from modist_fast.config import TrainConfig
from modist_fast.host.affinity import bind_near_gpu
from modist_fast.host.allocator import keep_freed_memory
from modist_fast.host.distributed import World, on_main
from modist_fast.host.environment import environment, git_revision
from modist_fast.optim import learning_rate
from modist_fast.run import checkpoint
from modist_fast.run.beginning import claim, resume
from modist_fast.run.export import export_backbone, visual_card
from modist_fast.run.pictures import save_contact_sheet, save_loss_curve
from modist_fast.step import TrainingStep
from modist_fast.watch.budget_keeper import BudgetKeeper, describe, facts_of
from modist_fast.watch.metrics import Display, Recorder, RunLog, drop_lines_after
from modist_fast.watch.profiler import StepProfiler
from modist_fast.watch.spans import annotate
from modist_pipelines.clips.loader import ClipLoader
from modist_pipelines.source import ClipSource

log = logging.getLogger("modist")


class Trainer:
    """One process's part of a pre-training run.

    Args:
        config: checked by `config.check`.
        world: from `join_world`.
        source: where the clips come from, opened.
    """

    def __init__(self, config: TrainConfig, world: World, source: ClipSource) -> None:
        self.config, self.world, self.source = config, world, source
        self._say(f"CPU: {bind_near_gpu(world.device)}; memory: {keep_freed_memory(world.device)}")
        self.loader = ClipLoader(
            source,
            config.plan(source.grid),
            batch_size=config.batch_size,
            seed=config.seed,
            rank=world.rank,
            world_size=world.size,
            shuffle_keys=config.objective.shuffle_bn,
            device=str(world.device),
            num_threads=config.loader.num_threads,
            prefetch=config.loader.prefetch,
            read_patience=config.loader.read_patience,
            subset=config.clips.subset,
            annotate=annotate,
        )
        self._say(self.loader.describe())
        if (warning := self.loader.warning()) and world.is_main:
            log.warning(warning)
        self.num_steps = config.epochs * self.loader.steps_per_epoch
        self.last_step = min(self.num_steps, config.max_steps or self.num_steps)
        self.training_step = TrainingStep(config, world)
        self.steps_done = 0
        self._fingerprint = source.fingerprint()
        self._stop_requested = False

    def run(self) -> None:
        """Train until the last step or SIGTERM; the state is saved either way."""
        try:
            claim(self.config.out, self.config, self.world)
            self._resume()
            self._write_header()
            signal.signal(signal.SIGTERM, self._request_stop)
            self._loop()
            if self.steps_done < self.last_step:
                self._say(f"stopped by SIGTERM after step {self.steps_done}; go on with --resume auto")
            else:
                on_main(self.world, self._finish)
        finally:
            self.loader.close()

    def _loop(self) -> None:
        config = self.config
        run_log = RunLog(config.out, self.steps_done) if self.world.is_main else None
        saved_at = self.steps_done
        budget = self._budget()
        profiler = self._profiler()
        with Display(self.last_step, self.steps_done, self.world.is_main) as display:
            recorder = Recorder(config.batch_size, self.training_step.spans, run_log, display, budget)
            for batch in self.loader.iterate(self.steps_done, self.last_step):
                profiler.step()
                with annotate("step"):
                    rate = self._learning_rate()
                    figures = self.training_step(batch, rate)
                    self.steps_done += 1
                    recorder.push(batch, rate, figures, self._stop_requested, not profiler.disturbs)
                    if self.steps_done % config.checkpoint.every == 0 or self.steps_done == self.last_step:
                        recorder.flush()  # where the loss is not finite, to say so is clearer than to name tensors
                        self._save()
                        saved_at = self.steps_done
                if recorder.stop_agreed:
                    break
            recorder.flush()
            profiler.close()
        if saved_at != self.steps_done:
            self._save()
        if run_log is not None:
            run_log.close()
        self._say(describe(budget.close()))

    def _profiler(self) -> StepProfiler:
        options = self.config.profile
        return StepProfiler(
            self.config.out / "profile",
            self.world.rank,
            self.world.device,
            first=options.start,
            num_steps=options.steps,
            trace=options.trace,
            memory=options.memory,
            cuda_window=options.cuda_window,
        )

    def _budget(self) -> BudgetKeeper:
        if self.world.is_main:
            drop_lines_after(self.config.out / "budget.jsonl", self.steps_done)
        rejected = self.loader.rejected_windows if self.config.objective.motion else None
        dtype = self.training_step.dtype
        facts = facts_of(self.config, self.world, dtype, self.loader.source_name, rejected)
        return BudgetKeeper(self.world, facts, self.config.out)

    def _learning_rate(self) -> float:
        return learning_rate(
            self.config.optim,
            self.steps_done,
            self.loader.steps_per_epoch,
            self.num_steps,
            self.config.batch_size,
        )

    def _request_stop(self, signum: int, frame: object) -> None:
        self._stop_requested = True

    def _say(self, message: str) -> None:
        if self.world.is_main:
            log.info(message)

    def _save(self) -> None:
        step = self.training_step
        with step.spans("checkpoint"):
            agree_on_statistics(step.model)
            on_main(self.world, self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        step = self.training_step
        state = {
            "model": step.model.state_dict(),
            "optimizer": step.optimizer.state_dict(),
            "scaler": step.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "store": self._fingerprint,
        }
        checkpoint.save(self.config.out, self.steps_done, state, self.config)

    def _resume(self) -> None:
        found = resume(
            self.config.out,
            self.config,
            self.world,
            ("store", self._fingerprint),
            f"videos than {self.source.path} holds now, so its order of samples cannot go on. Use the store or the "
            "videos it began with",
        )
        if found is None:
            return
        path, state = found
        step = self.training_step
        step.model.load_state_dict(state["model"])
        step.optimizer.load_state_dict(state["optimizer"])
        step.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"].cpu())
        self.steps_done = state["step"]
        self._say(f"resumed after step {self.steps_done} from {path}")

    def _write_header(self) -> None:
        """RUN/config.json, RUN/environment.json and RUN/clips.png: what was asked, on what, and what the nets see."""
        if not self.world.is_main:
            return
        out = self.config.out
        out.mkdir(parents=True, exist_ok=True)
        _write_json(out / "config.json", checkpoint.plain_config(self.config))
        _write_json(out / "environment.json", environment() | {"processes": self.world.size})
        save_contact_sheet(out / "clips.png", self.source, self.config)

    def _finish(self) -> None:
        """RUN/backbone.safetensors and RUN/loss.png."""
        config, out = self.config, self.config.out
        card = {
            **visual_card(checkpoint.plain_config(config)),
            "steps": self.steps_done,
            "source": self.source.card(),
            "git_revision": git_revision(),
        }
        export_backbone(self.training_step.model.online.visual, out / "backbone.safetensors", card)
        save_loss_curve(out / "loss.png", out / "metrics.jsonl", config.objective.bank_size)
        log.info("backbone: %s", out / "backbone.safetensors")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

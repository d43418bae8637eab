"""Pre-training: the loop around its step, and what a run leaves."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch

from modist_fast.batch_norm import agree_on_statistics
from modist_fast.collectives.agreement import agree_on_data
from modist_fast.config import TrainConfig
from modist_fast.host.allocator import keep_freed_memory
from modist_fast.host.distributed import World, on_main
from modist_fast.host.environment import device_name, environment, git_revision, package_version
from modist_fast.host.processes import allowed_cores
from modist_fast.init_from import read_beginning
from modist_fast.loop import TrainingLoop
from modist_fast.optim import learning_rate
from modist_fast.run import checkpoint
from modist_fast.run.alone import alone_in
from modist_fast.run.beginning import claim
from modist_fast.run.export import export_backbone, visual_card
from modist_fast.run.pictures import save_contact_sheet, save_loss_curve
from modist_fast.step import TrainingStep, check_clips
from modist_fast.track.trackers import open_tracker
from modist_fast.watch.budget_keeper import BudgetKeeper, describe, facts_of
from modist_fast.watch.collapse import CollapseAlarm
from modist_fast.watch.late import LeftOut
from modist_fast.watch.ledger import Begun, Ledger
from modist_fast.watch.metrics import Display, Recorder, Watcher
from modist_fast.watch.profiler import StepProfiler
from modist_fast.watch.run_log import RunLog, drop_lines_after
from modist_fast.watch.spans import annotate
from modist_pipelines.clips.loader import ClipBatch, ClipLoader
from modist_pipelines.source import ClipSource

log = logging.getLogger("modist")


class Trainer(TrainingLoop[TrainConfig]):
    """One process's part of a pre-training run.

    Args:
        config: checked by `config.check`.
        world: from `join_world`.
        source: where the clips come from, opened.
        watcher: is shown each step, on rank 0.
    """

    step: TrainingStep

    def __init__(self, config: TrainConfig, world: World, source: ClipSource, watcher: Watcher | None = None) -> None:
        super().__init__(config, world, config.out)
        check_clips(config)
        self._watcher = watcher
        self.source = source
        self._fingerprint = source.fingerprint()
        agree_on_data(source.path, self._fingerprint, source.content)
        self._say(f"CPU: {allowed_cores(world.device)}; memory: {keep_freed_memory(world.device)}")
        self.loader = ClipLoader(
            source,
            config.plan(source.grid, source.fps),
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
            hw_decoder_load=config.loader.hw_decoder_load,
            motion_decoding=config.loader.motion_decoding,
            annotate=annotate,
        )
        self._say(self.loader.describe())
        if (warning := self.loader.warning()) and world.is_main:
            log.warning(warning)
        self.num_steps = config.epochs * self.loader.steps_per_epoch
        self.last_step = min(self.num_steps, config.max_steps or self.num_steps)
        self.step = TrainingStep(config, world)
        self._left_out = LeftOut(config.max_bad_steps)

    @cached_property
    def _content(self) -> str:
        return self.source.content()  # of a large store seconds: rank 0 alone needs it, unless the store was made anew

    def run(self) -> None:
        """Train until the last step or a signal; the state is saved either way.

        Raises:
            Interrupted: a signal came first.
        """
        try:
            with alone_in(self.out, self.world):
                begin_from = read_beginning(self.config, self.world)
                claim(self.out, self.config, self.world)
                if not self._go_on() and begin_from is not None:
                    begin_from(self.step.model)
                self._write_header()
                with self._stopped_by_signals():
                    self._loop()
                self._end()
                on_main(self.world, self._finish)
        finally:
            self.loader.close()

    def _loop(self) -> None:
        budget = self._budget()
        profiler = self._profiler()
        display = Display(self.last_step, self.steps_done, self.world.is_main, self._watcher)
        with self._run_log() as run_log, self._ledger() as ledger, display:
            sheet = self.out / "clips.png"
            if run_log is not None and sheet.is_file():  # steps that are taken again have none
                run_log.picture("clips", sheet)
            alarm = CollapseAlarm(self.config.batch_size, self.config.on_collapse)
            recorder = Recorder(
                self.config.batch_size,
                self.step.spans,
                run_log,
                display,
                budget,
                self.step.gradients,
                alarm,
                self._left_out if self.config.on_bad_step == "skip" else None,
                ledger,
            )

            def batches() -> Iterator[ClipBatch]:
                for batch in self.loader.iterate(self.steps_done, self.last_step):
                    profiler.step()
                    yield batch

            def take(batch: ClipBatch) -> None:
                rate = self._learning_rate()
                figures = self.step(batch, rate, self._cross_weight())
                recorder.push(batch, rate, figures, self._stop_requested, not profiler.disturbs)

            self._take_steps(batches, take, recorder)
            profiler.close()
        self._save()
        self._say(describe(budget.close()))

    def _run_log(self) -> AbstractContextManager[RunLog | None]:
        if not self.world.is_main:
            return nullcontext()
        tracker = open_tracker(self.config.track, self.out, checkpoint.plain_config(self.config))
        return RunLog(self.out, self.steps_done, tracker)

    def _ledger(self) -> AbstractContextManager[Ledger | None]:
        return Ledger(self.out, self.steps_done, self.begun()) if self.world.is_main else nullcontext()

    def _profiler(self) -> StepProfiler:
        options = self.config.profile
        return StepProfiler(
            self.out / "profile",
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
            drop_lines_after(self.out / "budget.jsonl", self.steps_done)
        rejected = self.loader.rejected_windows if self.config.objective.motion else None
        facts = facts_of(self.config, self.world, self.step.dtype, self.loader.source_name, rejected)
        return BudgetKeeper(self.world, facts, self.out)

    def _learning_rate(self, num_steps: int | None = None) -> float:
        return learning_rate(
            self.config.optim,
            self.steps_done,
            self.loader.steps_per_epoch,
            num_steps or self.num_steps,
            self.config.batch_size,
        )

    def _cross_weight(self) -> float:
        warmup_steps = self.config.objective.cross_warmup_epochs * self.loader.steps_per_epoch
        return min(1.0, self.steps_done / warmup_steps) if warmup_steps else 1.0

    def _memory_options(self) -> str:
        config = self.config
        together = self.step.groups_of_a_pass
        same = f"--groups-together (now {together}; 1 computes the same), " if together > 1 else ""
        return (
            f"{same}--group-size {config.group_size}, --clips.crop-size {config.clips.crop_size} or "
            f"--clips.visual.num-frames {config.clips.visual.num_frames}, or share the batch among more devices "
            "(--nproc-per-node)"
        )

    def _agree(self) -> None:
        agree_on_statistics(self.step.model)

    def _save(self) -> None:
        with self.step.spans("checkpoint", launches=False):
            super()._save()

    def _own_state(self) -> dict[str, Any]:
        gate = self.step.leave_out
        # The count, and whether the last step was one of them.
        left_out = self._left_out.count, gate is not None and gate.bad.item() > 0
        data = {"store": self._fingerprint, "content": self._content}
        return {"random": torch.get_rng_state(), **data, "left_out": left_out}

    def _go_on(self) -> bool:
        state = self._resume(
            {"store": lambda: self._fingerprint, "content": lambda: self._content},
            f"videos than {self.source.path} holds now, so its order of samples cannot go on. Use the store or the "
            "videos it began with",
        )
        if state is not None:
            self._say_extended(state["config"])
        return state is not None

    def _take_over(self, state: dict[str, Any]) -> None:
        super()._take_over(state)
        torch.set_rng_state(state["random"].cpu())
        self._left_out.count, is_last = state.get("left_out", (0, False))  # older versions left none out
        self.step.go_on(is_last)

    def begun(self) -> Begun:
        """On what this run computes, for its ledger."""
        return Begun(
            plan=self.loader.plan_digest(),
            store=self._fingerprint,
            content=self._content,
            epochs=self.config.epochs,
            processes=self.world.size,
            device=device_name(self.world.device),
            threads=torch.get_num_threads(),
            precision=str(self.step.dtype).removeprefix("torch."),
            tf32=self.config.tf32,
            deterministic=self.config.deterministic,
            groups_of_a_pass=self.step.groups_of_a_pass,
            torch=torch.__version__,
            modist_fast=package_version("modist-fast"),
            git_revision=git_revision(),
        )

    def _say_extended(self, saved: dict[str, Any]) -> None:
        if saved["epochs"] == self.config.epochs:
            return
        before = saved["epochs"] * self.loader.steps_per_epoch
        rates = [self._learning_rate(num_steps) for num_steps in (before, self.num_steps)]
        self._say(
            f"--epochs {self.config.epochs} (saved: {saved['epochs']}): from step {self.steps_done + 1} on, the "
            f"learning rate is that of a schedule of {self.config.epochs} epochs, {rates[1]:.4g} here where it was "
            f"{rates[0]:.4g}; what was trained before stays as it is"
        )

    def _write_header(self) -> None:
        """RUN/config.json, RUN/environment.json and RUN/clips.png: what was asked, on what, and what the nets see."""
        if not self.world.is_main:
            return
        self._write_json("config.json", checkpoint.plain_config(self.config))
        self._write_json("environment.json", environment() | {"processes": self.world.size})
        save_contact_sheet(self.out / "clips.png", self.source, self.config)

    def _finish(self) -> None:
        """RUN/backbone.safetensors and RUN/loss.png."""
        config, out = self.config, self.out
        card = {
            **visual_card(checkpoint.plain_config(config)),
            "steps": self.steps_done,
            "source": self.source.card(),
            "git_revision": git_revision(),
        }
        export_backbone(self.step.model.online.visual, out / "backbone.safetensors", card)
        save_loss_curve(out / "loss.png", out / "metrics.jsonl", config.objective.bank_size, config.batch_size)
        log.info("backbone: %s", out / "backbone.safetensors")

"""One row of bench_step.py, in a process of its own, as training has one: runs once for each command.

    python profiling/modist_profiling/step/worker.py SPEC        (SPEC: JSON, see `StepRow.spec`)

Says how many operations a run has, once it is ready; then answers each command with milliseconds of the run, by
the clock and of the processor, and the process's peak memory.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modist_fast.config import TrainConfig
from modist_fast.host.allocator import keep_freed_memory
from modist_fast.host.distributed import World, join_world
from modist_fast.presets import find_preset
from modist_fast.step import TrainingStep
from modist_fast.watch.rates import peak_memory
from modist_pipelines.clips.loader import ClipBatch
from modist_profiling.frame.rows import answer_commands
from modist_profiling.step.operations import count_operations
from modist_profiling.step.peers import BACKBONES, prepared
from modist_profiling.step.plain import PlainStep, same_weights


def step_config(spec: dict[str, Any]) -> TrainConfig:
    """One process, one group: batch norm sees the whole batch on both sides, however keys are shuffled."""
    recipe = find_preset(spec.get("preset", "modist-r18-128"))(Path(), Path())
    # Eq. 2 as printed, as the plain step writes it and the figures of docs/step.md were taken.
    objective = replace(recipe.objective, bank_size=spec["bank"], shuffle_bn=False, cross_negatives="own")
    return replace(
        recipe,
        batch_size=spec["batch"],
        group_size=spec["batch"],
        objective=objective,
        clips=replace(recipe.clips, crop_size=spec["crop"]),
    )


def made_up_batch(config: TrainConfig, device: torch.device, num_processes: int = 1) -> ClipBatch:
    """A process's clips of noise in the loader's layout, each video twice in the bank's range of ids."""
    generator = torch.Generator().manual_seed(0)
    num, size = config.batch_size // num_processes, config.clips.crop_size

    def clips(channels: int, frames: int) -> Tensor:
        clip = torch.rand(num, channels, frames, size, size, generator=generator)
        return clip.to(device).contiguous(memory_format=torch.channels_last_3d)

    visual, motion = config.clips.visual.num_frames, config.clips.motion.num_frames
    return ClipBatch(
        step=0,
        epoch=0,
        video_ids=np.arange(config.batch_size, dtype=np.int32),
        deal=np.arange(config.batch_size),
        visual_query=clips(3, visual),
        visual_key=clips(3, visual),
        motion_query=clips(config.motion_channels, motion),
        motion_key=clips(config.motion_channels, motion),
        damaged=np.zeros(config.batch_size, bool),
        counters={},
    )


def plain_runner(config: TrainConfig, choices: Sequence[str], batch: ClipBatch, world: World) -> Callable[[], Tensor]:
    """A call that takes a plain step with `choices`, on `batch`; returns its four terms."""
    step = PlainStep(config, frozenset(choices), world.device)
    same_weights(step.net, step.net if "one_channel" in choices else TrainingStep(config, world).model.online)
    step.momentum.load_state_dict(step.net.state_dict())
    assert batch.motion_query is not None
    assert batch.motion_key is not None
    queries = [step.clips(clip) for clip in (batch.visual_query, batch.motion_query)]
    keys = [step.clips(clip) for clip in (batch.visual_key, batch.motion_key)]
    ids = torch.from_numpy(batch.video_ids).to(world.device)
    fill_bank(step.bank, step.bank_ids)
    return lambda: step(queries, keys, ids)


def our_runner(config: TrainConfig, batch: ClipBatch, world: World) -> Callable[[], dict[str, Tensor]]:
    """A call that takes the project's step on `batch`; returns its figures."""
    step = TrainingStep(config, world)
    fill_bank(step.model.bank.keys, step.model.bank.video_ids)
    return lambda: step(batch, config.optim.lr)


def fill_bank(bank: Tensor, ids: Tensor) -> None:
    """Full banks, as they are but for the first steps of a run."""
    generator = torch.Generator().manual_seed(1)
    keys = torch.nn.functional.normalize(torch.randn(bank.shape, generator=generator), dim=-1)
    bank.copy_(keys.half())
    ids.copy_(torch.randint(0, len(ids), ids.shape, generator=generator))


def build(spec: dict[str, Any], world: World) -> Callable[[], object]:
    """The call that a row measures."""
    if spec["part"] == "backbone":
        clips = torch.rand(spec["batch"], 3, 8, 112, 112, device=world.device)
        return prepared(BACKBONES[spec["row"]], clips)
    config = step_config(spec)
    batch = made_up_batch(config, world.device)
    if spec["row"] == "modist":
        keep_freed_memory(world.device)  # as the trainer does
        return our_runner(replace(config, compile=spec["compile"]), batch, world)
    if "kept_memory" in spec["choices"]:
        keep_freed_memory(world.device)
    return plain_runner(config, spec["choices"], batch, world)


def main() -> None:
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    with join_world(spec["device"]) as world:
        run = build(spec, world)
        for _ in range(4):  # what is slow at first; DDP rearranges its buckets in the second and third
            run()
        # Compiled code hands its device other calls than these.
        operations = 0 if spec.get("compile") else count_operations(run).total()

        def turn() -> dict[str, float]:
            begun, used = time.perf_counter(), time.process_time()
            run()
            if world.device.type == "cuda":
                torch.cuda.synchronize(world.device)
            seconds, cpu = time.perf_counter() - begun, time.process_time() - used
            return {"time": 1e3 * seconds, "cpu_time": 1e3 * cpu, **peak_memory(world.device)}

        answer_commands({"operations": operations}, turn)


if __name__ == "__main__":
    main()

"""Prepare: a folder of videos becomes a store, on several processes, resumable, nothing lost in silence."""

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import tyro

from modist_pipelines.disk.durable import free_gigabytes
from modist_pipelines.disk.names import file_path
from modist_pipelines.errors import DataError
from modist_pipelines.lists.entry import ListFormat
from modist_pipelines.motion_inputs import DEFAULT, MotionName, find_motion_input
from modist_pipelines.prepare.estimate import Estimate, estimate
from modist_pipelines.prepare.flow import FlowDevice, FlowName, find_raft_weights, make_flow_estimator, uses_gpu
from modist_pipelines.prepare.growth import Growth, Known, relabelled
from modist_pipelines.prepare.inputs import Inputs, find_inputs
from modist_pipelines.prepare.motion import OPTION, EdgeFunction, motion_scales
from modist_pipelines.prepare.partial import PartialStore, check_same_plan
from modist_pipelines.prepare.placement import Placement, free_bytes, num_cores, place
from modist_pipelines.prepare.settings import (
    OPTIONS,
    PICTURE_OPTIONS,
    AspectOption,
    SizeChangeOption,
    picture_rules,
)
from modist_pipelines.prepare.shards import ShardMaker, ShardTask, largest_first, plan_shards
from modist_pipelines.prepare.watch import make_shards
from modist_pipelines.prepare.workers import Pool, WorkerPool
from modist_pipelines.ranges import FRAME_RATE, Range, outside, ranged
from modist_pipelines.remote.fetch import use_cache
from modist_pipelines.store.reader import (
    META_NAME,
    QUARANTINE_NAME,
    Border,
    Store,
    StoreMeta,
)
from modist_pipelines.store.summary import Summary
from modist_pipelines.store.writer import quarantine_table, write_parquet, write_tables
from modist_pipelines.video.discovery import file_size

logger = logging.getLogger("modist")


@dataclass(frozen=True)
class PrepareConfig:
    """Turn videos into a store: frames, flow edges and motion scores, ready to train on."""

    videos: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEOS")]
    """Folder of videos, or its URL in a bucket; its subfolders too, whose names become labels. Or a list: a table or
    JSON of paths and labels, or a split file of UCF101, HMDB51 (or the folder of them), Kinetics, Something-Something
    v2 (docs/data.md)."""
    out: Path
    """Folder of the store. Run again after an interruption, or when videos were added, removed or replaced: only what
    is missing is done."""
    short_side: int = ranged(256, Range(32, 4096))
    """Pixels of the shorter side of the stored frames (144 for the 128-pixel models)."""
    motion_inputs: tuple[MotionName, ...] = (DEFAULT,)
    """Motion maps to store (Table 3b; docs/motion-inputs.md); one store may hold several, or none."""
    flow: FlowName = "dis"
    """Optical flow: OpenCV's DIS needs no weights; RAFT is the paper's; nvof is the engine of an NVIDIA GPU; codec
    computes none, and takes the motion vectors that H.264, MPEG-4 part 2 and older streams hold
    (docs/motion-inputs.md)."""
    raft_weights: Path | None = None
    """File of torchvision's RAFT weights; without it, torch's hub cache is looked at."""
    device: FlowDevice = "auto"
    """Where RAFT runs; nvof needs a GPU."""
    sobel_gain: float = ranged(1.0, Range(1e-6, 1e6))
    """Factor on the plain 3x3 Sobel filter of the flow edges (kornia's filter is 0.125)."""
    border: Border = "replicate"
    """What the Sobel filter sees beyond the frame."""
    clamp: float = ranged(10.0, Range(1e-6, 1e6))
    """Upper end of the flow edges, in pixels per 5 frames."""
    fps: float = ranged(30.0, Range(1, 1000))
    """Frames a second of the nominal clock that all videos are put on."""
    grid: int = ranged(4, Range(1, 1000))
    """Store every so many frames of the clock; 1 lets clips start at any frame, for 4 times the room."""
    frames_fps: float = ranged(30.0, FRAME_RATE)
    """Frames a second of videos that are folders of pictures (img_00001.jpg): of AVA 30, Charades 24, and of
    Something-Something v2 12."""
    aspect: AspectOption = "auto"
    """Pixels that are not square: "display" makes them so, as players do; "storage" keeps the shape of the file. By
    default what the store in --out has, display for a new one."""
    size_change: SizeChangeOption = "auto"
    """Videos whose frames change their shape: "refuse" puts them into quarantine, "scale" brings each frame to the
    shape of the first. By default what the store in --out has, refuse for a new one."""
    jpeg_quality: int = ranged(90, Range(1, 100))
    """Of frames and motion maps, 1 to 100."""
    root: Path | None = None
    """Folder that the paths of a list are relative to; by default the list's own."""
    list_format: ListFormat = "auto"
    """What VIDEOS is, where it is a list."""
    label_depth: int = ranged(0, Range(0, 100))
    """Which of the folders under VIDEOS is the label, counted from 1; 0 takes the innermost."""
    shard: str | None = None
    """I/N: do part I of N, counted from 1, on this machine; "slurm" takes both from the job array. All parts write into
    the same --out; when they are done, --merge makes the store."""
    merge: bool = False
    """Join the parts of --shard to a store. Nothing is encoded again."""
    engine: Literal["processes", "ray"] = "processes"
    """Who does the work: processes of this machine, or those of a Ray cluster, which RAY_ADDRESS names or this machine
    is part of; without one, Ray is started here (docs/scale-data.md)."""
    video_timeout: float = ranged(600.0, Range(1, 1e9))
    """Seconds after which a video of which a worker has decoded no more frames is given up. However long it is, it may
    take its time while it gets on."""
    retry_quarantined: bool = False
    """Try the videos that are in quarantine once more."""
    workers: int = ranged(0, Range(0, 4096))
    """Processes; 0 takes one for each CPU core, with --engine ray of the cluster. Where flow runs on GPUs, worker i is
    on GPU i modulo their number, and 0 takes up to four for each, as their free memory allows."""
    cache: Path | None = None
    """Folder on a disk of this machine that keeps what is read by URL; processes share it (docs/scale-data.md)."""
    cache_gb: float = ranged(50.0, Range(1e-6, 1e6))
    """With --cache: gigabytes that it may take. What was used last stays."""
    dry_run: bool = False
    """Only print the estimate of size and time, and the workers and GPUs that a run takes."""

    def check(self) -> None:
        """
        Raises:
            DataError: an option out of its range.
        """
        if (wrong := outside(self)) is not None:
            raise DataError(wrong)
        for name in self.motion_inputs:
            find_motion_input(name, OPTION)
        if len(set(self.motion_inputs)) < len(self.motion_inputs):
            raise DataError(f"--motion-inputs {' '.join(self.motion_inputs)} names one input twice. Name each once.")
        if self.merge and self.shard is not None:
            raise DataError("--merge joins what --shard made: pass one of the two.")
        if self.engine == "ray":
            if self.merge or self.shard is not None:
                raise DataError(
                    "--engine ray deals out all shards and joins them itself: leave out --shard and --merge, or the "
                    "engine. What parts have done is kept either way."
                )
            from modist_pipelines.prepare.on_ray.cluster import check_installed

            check_installed()

    def part(self) -> tuple[int, int] | None:
        """(I, N) of --shard.

        Raises:
            DataError: not of that form, or outside a Slurm array.
        """
        if self.shard is None:
            return None
        text = self.shard
        if text == "slurm":
            names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
            values = [os.environ.get(name) for name in names]
            if None in values:
                raise DataError(
                    f"--shard slurm: this is no job array, since {' and '.join(names)} are not set. "
                    "Give I/N instead, such as 1/16."
                )
            task, first, count = (int(value) for value in values if value is not None)
            text = f"{task - first + 1}/{count}"
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise DataError(f"--shard {text}: give I/N with I from 1 to N, such as 1/16, or slurm.")
        return int(match[1]), int(match[2])


def prepare(config: PrepareConfig, edge_function: EdgeFunction) -> Summary | Estimate | None:
    """Make the store, or finish one that an interrupted run has left.

    The store is the same byte for byte on any number of workers and machines, interrupted or not.

    Args:
        config: the options.
        edge_function: flow to edges; a module-level function, since worker processes import it by name.

    Returns:
        What the store holds; with `dry_run`, the estimate; with `shard`, None: a part is no store yet.

    Raises:
        DataError: no usable video, options that do not fit each other or the store that is there, RAFT
            without weights, no room.
    """
    config.check()
    part = config.part()
    inputs = find_inputs(config.videos, config.root, config.list_format, config.label_depth)
    use_cache(config.cache, config.cache_gb, (file_path(inputs.root, video) for video in inputs.videos))
    meta = _meta(config)
    plan = _plan(config, meta, inputs)
    partial = PartialStore(config.out)
    is_growing, tasks = _tasks(config, meta, partial, plan, inputs)
    if tasks is None:
        logger.info("%s is complete already: nothing to do", config.out)
        partial.remove()
        return Summary.of(Store.open(config.out))
    everything = tasks
    if part is not None:
        tasks = [task for task in tasks if task.shard % part[1] == part[0] - 1]
    missing = [task for task in tasks if not partial.is_finished(task.shard)]
    if config.merge:
        if missing:
            _refuse_merge(config, tasks, missing)
        return _finish(config, meta, partial, inputs)
    with _workers(config, meta) as (pool, placement, num_gpus):
        maker = ShardMaker(inputs.root, config.out, meta, edge_function, config.raft_weights, config.device, num_gpus)
        expected = _announce(config, maker, tasks, missing, pool, placement)
        if config.dry_run:
            return expected
        with partial.locked(f"-{part[0]}-of-{part[1]}" if part else ""):
            if is_growing:
                partial.note({**plan, "grows": True})
            partial.agree(plan)
            mine = [task.shard for task in tasks]
            partial.remove_leftovers(mine)
            maker = replace(maker, gigabytes=expected.gigabytes)
            num_videos = sum(len(task.videos) for task in tasks)
            try:
                make_shards(largest_first(missing, inputs.root), maker, pool, num_videos, config.video_timeout)
            except BaseException:
                pool.stop()
                partial.remove_leftovers(mine)  # on a full disk half shards take the room that is left
                raise
    if part is not None:
        left = sum(not partial.is_finished(task.shard) for task in everything)
        logger.info(
            "part %d of %d is done: %d of %d shards are still missing. %s",
            *part,
            left,
            len(everything),
            "Run the other parts, then --merge." if left else "Run the same command with --merge in place of --shard.",
        )
        return None
    return _finish(config, meta, partial, inputs)


@contextmanager
def _workers(config: PrepareConfig, meta: StoreMeta) -> Iterator[tuple[Pool, Placement, int]]:
    """What makes the shards, processes here or on a cluster, and how many GPUs each of them sees."""
    flow = config.flow if meta.flow != "none" else None
    if config.engine == "processes":
        free = free_bytes() if flow and uses_gpu(flow, config.device) else ()
        placement = place(config.workers, free, config.flow, config.short_side)
        with WorkerPool(placement.num_workers) as pool:
            yield pool, placement, placement.num_gpus
        return
    from modist_pipelines.prepare.on_ray.cluster import joined

    with joined(config.workers or num_cores()) as cluster:
        from modist_pipelines.prepare.on_ray.pool import RayPool

        free = ()
        if flow and uses_gpu(flow, config.device, cluster.num_gpus):
            free = free_bytes(RayPool(1, gpu_share=1.0)) * cluster.num_gpus  # one speaks for all
            if not free:
                raise DataError(
                    f"--flow {flow}: Ray counts {cluster.num_gpus} GPUs, and torch on the machine of the first sees "
                    "none. Mend its driver or its build of torch, or pass --device cpu to compute RAFT on CPUs."
                )
        placement = place(config.workers, free, config.flow, config.short_side, cluster.num_cpus)
        with RayPool(placement.num_workers, placement.gpu_share) as pool:
            yield pool, placement, min(1, placement.num_gpus)


def _refuse_merge(config: PrepareConfig, tasks: Sequence[ShardTask], missing: Sequence[ShardTask]) -> None:
    numbers = ", ".join(str(task.shard) for task in missing[:8]) + (" ..." if len(missing) > 8 else "")
    raise DataError(
        f"--merge: {len(missing)} of the {len(tasks)} shards of {config.out} are not done (shards {numbers}, counted "
        "from 0; part I of N does those with number I - 1, I - 1 + N ...). Run the missing parts with --shard first; "
        "shards made on another disk belong into the same folders, shards and .partial."
    )


def _tasks(
    config: PrepareConfig,
    meta: StoreMeta,
    partial: PartialStore,
    plan: Mapping[str, Any],
    inputs: Inputs,
) -> tuple[bool, list[ShardTask] | None]:
    """Whether a store that is there takes up other videos than it was made of, and the shards to make; None where
    all is done."""
    root, videos, labels = inputs.root, inputs.videos, inputs.labels
    unusable = [row["video"] for row in inputs.unusable]
    is_finished = (config.out / META_NAME).exists()
    if is_finished:
        check_same_plan(
            _store_plan(meta), _store_plan(Store.open(config.out).meta), f"{config.out} is a finished store"
        )
    noted = partial.noted()
    if not is_finished and noted is None:
        return False, plan_shards(videos, labels)
    if noted is not None:
        own = {key: value for key, value in plan.items() if key not in ("videos", "grows")}
        check_same_plan(own, noted, f"{config.out} is half made")
    known = Known.of(config.out, partial)
    growth = Growth.between(known, root, videos, config.retry_quarantined)
    grows = is_finished or (noted or {}).get("grows") or (noted or {}).get("videos") != plan["videos"]
    grows = grows or growth.replaced or growth.retried
    if not grows:
        return False, plan_shards(videos, labels)
    mine = known.restricted([*videos, *unusable])
    if not mine.videos() and not mine.quarantined() and known.videos():
        state = "a finished store" if is_finished else "half made"
        check_same_plan({"videos": plan["videos"]}, {}, f"{config.out} is {state}")  # with no video in common
    out = {*unusable, *known.quarantined()} & {*unusable, *videos}
    is_changed = relabelled(mine.index, labels) != mine.index or out != set(known.quarantined())
    if is_finished and not growth and not is_changed and not partial.finished():
        return True, None
    if growth:
        logger.info("%s: %s", config.out, growth)
    if config.shard is not None or config.merge:
        raise DataError(
            f"--out {config.out}: its videos have changed ({growth}), and --shard and --merge make a store of videos "
            "that stay. Run the command without them: one machine takes up what has changed."
        )
    return True, plan_shards(growth.todo(), labels, partial.next_shard())


def _finish(
    config: PrepareConfig,
    meta: StoreMeta,
    partial: PartialStore,
    inputs: Inputs,
) -> Summary:
    """Join the tables of the shards, and of the store that they extend; only now is it a store."""
    with partial.locked():
        logger.info("joining the shards' tables to a store")
        known = Known.of(config.out, partial).restricted(inputs.videos)
        quarantine = pa.concat_tables([known.quarantine, quarantine_table(inputs.unusable)])
        if known.index.num_rows == 0:
            _give_up(config, quarantine, partial)
        try:
            write_tables(config.out, meta, relabelled(known.index, inputs.labels), quarantine, known.sources, True)
        except OSError as error:
            raise DataError(
                f"Writing the tables of {config.out} failed: {error.strerror or error}; "
                f"{free_gigabytes(config.out):,.2f} GB are free. Make room and run the same command again: all shards "
                "are there."
            ) from error
        partial.remove()
    return Summary.of(Store.open(config.out))


def _meta(config: PrepareConfig) -> StoreMeta:
    weights = None
    flow = config.flow if any(find_motion_input(name).needs_flow for name in config.motion_inputs) else "none"
    if config.flow in ("raft-large", "raft-small") and flow != "none":
        path = find_raft_weights(config.flow, config.raft_weights)
        make_flow_estimator(config.flow, path, "cpu")  # whether they load, before workers try, and on no GPU
        weights = f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return StoreMeta(
        short_side=config.short_side,
        motion_inputs=motion_scales(config.motion_inputs, config.clamp),
        fps=config.fps,
        grid=config.grid,
        jpeg_quality=config.jpeg_quality,
        flow=flow,
        flow_weights=weights,
        sobel_gain=config.sobel_gain,
        border=config.border,
        frames_fps=config.frames_fps,
        **asdict(picture_rules(config)),
    )


def _options(meta: StoreMeta) -> dict[str, Any]:
    return {name: getattr(meta, name) for name in (*OPTIONS, *PICTURE_OPTIONS)}


def _plan(config: PrepareConfig, meta: StoreMeta, inputs: Inputs) -> dict[str, Any]:
    """All that the bytes of the store depend on."""
    digest = hashlib.sha256()
    for video in inputs.videos:
        label = f"{inputs.labels[video]}\0" if inputs.labels is not None else ""
        digest.update(f"{video}\0{file_size(file_path(inputs.root, video))}\0{label}".encode())
    return {
        **_options(meta),
        "motion_inputs": list(config.motion_inputs),
        "clamp": config.clamp,
        "raft_weights": meta.flow_weights,
        "videos": digest.hexdigest(),
    }


def _store_plan(meta: StoreMeta) -> dict[str, Any]:
    """What a finished store says of the options that its bytes depend on."""
    clamps = [
        scale.full_scale
        for name, scale in meta.motion_inputs.items()
        if find_motion_input(name, OPTION).full_scale is None
    ]
    own = {"motion_inputs": list(meta.motion_inputs), "raft_weights": meta.flow_weights}
    return {**_options(meta), **own, "clamp": clamps}


def _announce(
    config: PrepareConfig,
    maker: ShardMaker,
    tasks: Sequence[ShardTask],
    missing: Sequence[ShardTask],
    pool: Pool,
    placement: Placement,
) -> Estimate:
    videos = [video for task in missing for video in task.videos]
    if len(missing) < len(tasks):
        logger.info("%s: %d of %d shards are there already", config.out, len(tasks) - len(missing), len(tasks))
    if not videos:
        return Estimate.of_nothing()
    expected = estimate(videos, maker, pool, config.video_timeout)
    free = free_gigabytes(config.out)
    logger.info("%d videos to do by %s", len(videos), placement)
    logger.info("%s; %.0f GB are free", expected, free)
    if expected.gigabytes > free:
        logger.warning("--out %s: by the estimate, the store will not fit there", config.out)
    return expected


def _give_up(config: PrepareConfig, quarantine: pa.Table, partial: PartialStore) -> None:
    """Leave the reasons behind, and nothing that a later run would take for work done; a store that is there stays."""
    if (config.out / META_NAME).is_file():
        partial.remove()
        raise DataError(
            f"VIDEOS {config.videos}: none of the files can be used any more. The store {config.out} stays as it was; "
            "mend VIDEOS, or remove the store."
        )
    write_parquet(config.out / QUARANTINE_NAME, quarantine.sort_by("video"))
    partial.remove()
    reasons = Counter(quarantine["reason"].to_pylist())
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    raise DataError(
        f"VIDEOS {config.videos}: none of the {quarantine.num_rows} files can be used ({counts}). "
        f"Look at {config.out / QUARANTINE_NAME}, which says why for each."
    )

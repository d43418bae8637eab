"""The stages of gpu_check.py: one table of commands, what each makes and needs, and how long it may take."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from modist_profiling.gpu_check import findings as findings
from modist_profiling.gpu_check.scaling import scaling
from modist_profiling.gpu_check.stage import OUT, REPOSITORY, WORK, Setting, Stage, python

LONGEST = 540.0
"""Seconds of a stage at most: a machine may be lent for ten minutes at a time."""
STEP_ROWS_GB = 20
"""Six processes of R3D-18 side by side; an estimate."""
FIRST_TESTS = (
    "tests/kernels/test_kernels_gpu.py",
    "tests/method/test_replay.py",
    "tests/pipelines/test_handover.py",
)
RUN_FILES = ("budget.json", "budget.jsonl", "metrics.jsonl", "config.json", "environment.json")


def stages(setting: Setting) -> list[Stage]:
    """All stages in order."""
    parts = (_first, _checks, _benchmarks, _demo, _scaling)
    return [stage for part in parts for stage in part(setting)]


def _tests(name: str, files: tuple[str, ...], dry: bool, limit: float) -> Stage:
    """The tests marked gpu in some files; on a CPU they are collected."""
    words: tuple[object, ...] = ("-m", "pytest", "-q", "-m", "gpu", "--continue-on-collection-errors")
    if dry:
        made, read = f"{name}.txt", findings.collected_tests(f"{name}.txt")
        words += ("--collect-only",)
    else:
        made, read = f"{name}.xml", findings.gpu_tests(f"{name}.xml")
        words += ("--junitxml", f"{OUT}/{made}")
        # Neither is needed: a machine that is lent may have pytest alone.
        words += ("--timeout", 120) if importlib.util.find_spec("pytest_timeout") else ()
        words += ("--numprocesses", 4) if importlib.util.find_spec("xdist") else ()
    of = " of kernels, replay and hand-over" if files == FIRST_TESTS else ""
    what = f"{'collects' if dry else 'runs'} the tests marked gpu{of}"
    command = python(*words, *files)
    obstacle = "" if (REPOSITORY / "tests").is_dir() else "the tests are in the checkout, which this is not"
    return Stage(name, what, command, limit, makes=(made,), stdout=made if dry else "", read=read, obstacle=obstacle)


def modist(*words: object) -> tuple[str, ...]:
    """A command of this project."""
    return python("-m", "modist_fast", *words)


def gpu_test_files() -> tuple[str, ...]:
    """Files of the checkout that hold tests marked gpu, without those of the first stage."""
    found = sorted(REPOSITORY.glob("tests/*/test_*.py"))
    marked = [str(p.relative_to(REPOSITORY)) for p in found if "mark.gpu" in p.read_text(encoding="utf-8")]
    return tuple(name for name in marked if name not in FIRST_TESTS)


def _look(name: str, what: str, limit: float, module: str, *words: object) -> Stage:
    """A module of this folder that looks at one thing."""
    made = f"{name}.json"
    command = python("-m", f"modist_profiling.gpu_check.{module}", *words, "--json", f"{OUT}/{made}")
    read = findings.layers if module == "layers" else findings.one_step(made)
    return Stage(name, what, command, limit, (made,), read=read)


def _first(setting: Setting) -> Iterator[Stage]:
    """What settles most; by the times that its parts took on an H200, in about two minutes."""
    yield _tests("first-tests", FIRST_TESTS, setting.dry_run, 120)
    layers, step = "the layers of the nets in 3D, in 4D, and the fused norm", "one step without CUDA graphs"
    if setting.dry_run:
        small = ("--device", "cpu", "--preset", "modist-r18-128", "--crop", 32)
        yield _look("first-layers", layers, 90, "layers", *small, "--batch", 1, "--num", 1)
        small += ("--bank", 256, "--group", 2, "--steps", 1)
        yield _look("first-step-off", step, 90, "one_step", "--graphs", "off", *small)
        return
    yield _look("first-layers", layers, 90, "layers", "--device", "cuda")
    one_step = ("one_step", "--device", "cuda")
    yield _look("first-step-off", step, 90, *one_step, "--graphs", "off")
    yield _look("first-step-auto", "one step", 90, *one_step, "--graphs", "auto")
    yield _look("first-step-groups", "one step of 8 groups", 90, *one_step, "--groups", 8)


def _checks(setting: Setting) -> Iterator[Stage]:
    dry = setting.dry_run
    yield Stage(
        "doctor",
        "what is installed, and what each absence costs",
        modist("doctor", "--json"),
        limit=300,
        makes=("doctor.json",),
        stdout="doctor.json",
        read=findings.doctor if dry else findings.gpu_doctor,
    )
    yield _tests("gpu-tests", gpu_test_files(), dry, LONGEST)
    device = ("--device", "cpu", "--num", 2048, "--size", 64, "--clips", 4) if dry else ("--device", "cuda")
    yield Stage(
        "parity",
        "kernels and clip graphs against float64, and the GPU's graph against the CPU's",
        modist("parity", *device, "--json", f"{OUT}/parity.json"),
        limit=LONGEST,
        makes=("parity.json",),
        read=findings.parity,
    )


def _benchmarks(setting: Setting) -> Iterator[Stage]:
    dry = setting.dry_run
    device = ("--device", "cpu" if dry else "cuda")

    def bench(
        name: str, what: str, script: str, *words: object, tables: int | None = None, obstacle: str = ""
    ) -> Stage:
        made = (f"{name}.json", f"{name}.png")
        files = ("--json", f"{OUT}/{made[0]}", "--plot", f"{OUT}/{made[1]}")
        command = modist("bench", script, *device, *words, *files)
        return Stage(name, what, command, LONGEST, made, read=findings.benchmark(name, tables), obstacle=obstacle)

    quick = ("--seconds", 0.2, "--rounds", 3, "--no-count")
    loss = ("--batch", 4, "--num", 2048, "--dim", 64, "--no-compile", *quick) if dry else ("--num", 65536, "--sweep")
    edges = ("--frames", 2, "--size", 40, *quick) if dry else ("--sweep",)
    step = ("--part", "step", "--no-choices")
    if dry:
        step += ("--batch", 2, "--crop", 32, "--bank", 256, "--rounds", 1, "--threads", 1)
    else:
        step += ("--preset", "modist-r50", "--crop", 224, "--bank", 65536)
    yield bench("bench-loss", "the loss over both banks", "loss", *loss, tables=1)
    yield bench("bench-edges", "flow to edge maps", "edges", *edges, tables=1)
    yield bench("bench-step", "a training step against the plain one", "step", *step)
    if dry:
        tuning = ("--ahead-of-time", "--architecture", 90, "--dims", 128, "--block-rows", 32)
        yield Stage(
            "kernel-table",
            "compiles one entry ahead of time",
            modist("tune-kernels", *tuning),
            limit=LONGEST,
            makes=("kernel-table.txt",),
            stdout="kernel-table.txt",
            read=findings.compiled_entries,
        )
        return
    yield bench("bench-step-compile", "the same with torch.compile", "step", *step, "--compile")
    yield _look("step-compile", "one step of it", LONGEST, "one_step", "--device", "cuda", "--compile")
    small = setting.memory_gb < STEP_ROWS_GB
    obstacle = f"six processes share the GPU; skipped below {STEP_ROWS_GB} GB of memory" if small else ""
    what = "R3D-18 128²: what each choice is worth"
    yield bench("bench-step-choices", what, "step", "--part", "step", obstacle=obstacle)
    yield bench("bench-backbones", "backbones of others", "step", "--part", "backbones", obstacle=obstacle)
    for rows in (16, 32, 64, 128):  # each some minutes
        name = f"kernel-table-{rows}"
        words = ("--dims", 128, "--block-rows", rows, "--json", f"{OUT}/{name}.json", *["--write"] * setting.write)
        yield Stage(
            name,
            f"times launch configurations at C 128 with {rows} rows in a tile",
            modist("tune-kernels", *words),
            limit=LONGEST,
            makes=(f"{name}.json",),
            read=findings.kernel_table(f"{name}.json"),
        )


def _videos(name: str, num: int) -> Stage:
    command = modist("make-demo-videos", f"{WORK}/videos", "--num-videos", num)
    return Stage(name, "makes videos", command, LONGEST, work="videos")


def _store(name: str, videos: str, short_side: int) -> Stage:
    command = modist("prepare", f"{WORK}/videos", "--out", f"{WORK}/{name}", "--short-side", short_side)
    what = f"prepares them at {short_side} pixels: frames, flow, edges"
    return Stage(name, what, command, LONGEST, needs=(videos,), work=name)


def _pretrain(
    name: str, what: str, processes: int, store: str, *words: object, files: tuple[str, ...] = (), **more
) -> Stage:
    """A run of its own folder `name`, of which the budget and `files` are kept."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes)
    train = ("-m", "modist_fast", "pretrain", "--store", f"{WORK}/{store}", "--out", f"{WORK}/{name}", *words)
    copies = {f"{name}/{file}": f"{name}/{Path(file).name}" for file in (*RUN_FILES, *files)}
    command = python(*(torchrun if processes > 1 else ()), *train)
    return Stage(name, what, command, LONGEST, tuple(copies.values()), work=name, kept=copies, **more)


def _small(batch: int) -> tuple[object, ...]:
    """Options of a run on a CPU that takes seconds."""
    nets = ("--model.arch", "r18", "--model.visual-width", 8, "--clips.crop-size", 32, "--objective.bank-size", 16)
    return (*nets, "--device", "cpu", "--batch-size", batch, "--group-size", 2, "--max-steps", 8)


def _demo(setting: Setting) -> Iterator[Stage]:
    dry, every = setting.dry_run, setting.num_gpus
    yield _videos("demo-videos", 4 if dry else 64 * max(3, every))
    yield _store("demo-store", "demo-videos", 72)
    for suffix, processes in (("one", 1), ("all", every)):
        if dry and suffix == "all":  # the scaling stage has two processes
            return
        title = "one process" if dry else "one GPU" if suffix == "one" else f"all {every} GPUs"
        obstacle = "" if suffix == "one" or every > 1 else "there is one GPU, which the stage before it used"
        # On a GPU, an epoch is six steps: too few for a budget; ten of them.
        gpu = ("--device", "cuda", "--batch-size", max(32, 16 * processes), "--max-steps", 60)
        train = ("--profile.start", 5, "--profile.steps", 1) if dry else ("--profile.start", 40, "--profile.steps", 2)
        yield _pretrain(
            run := f"pretrain-{suffix}",
            f"profiled run of the demo on {title}",
            processes,
            "demo-store",
            *("--preset", "demo", "--profile.trace", *train, *(_small(4) if dry else gpu)),
            files=("clips.png", "loss.png", "profile/trace-rank0.json.gz"),
            needs=("demo-store",),
            read=findings.budget(run),
            obstacle=obstacle,
        )
        yield Stage(
            f"report-{suffix}",
            f"page of that run on {title}",
            modist("report", f"{WORK}/{run}", "--out", f"{OUT}/report-{suffix}.html"),
            limit=300,
            needs=(run,),
            makes=(f"report-{suffix}.html",),
            obstacle=obstacle,
        )


def _scaling(setting: Setting) -> Iterator[Stage]:
    """The paper's nets on a store of 256 pixels, on 1, 2, 4, 8 GPUs; on a CPU two processes of small nets."""
    dry = setting.dry_run
    store = "demo-store" if dry else "scaling-store"
    if not dry:
        yield _store(store, "demo-videos", 256)
    for num in (2,) if dry else [n for n in (1, 2, 4, 8) if n <= setting.num_gpus]:
        gpu = ("--device", "cuda", "--batch-size", 64 * num, "--max-steps", 60)
        yield _pretrain(
            name := f"scaling-{num}",
            f"modist-r50 on {num} {'processes, tiny' if dry else 'GPUs' if num > 1 else 'GPU'}",
            num,
            store,
            *("--preset", "modist-r50", *(_small(4) if dry else gpu)),
            needs=(store,),
            read=scaling(name, judge=not dry),
        )

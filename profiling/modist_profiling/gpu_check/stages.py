"""The stages of gpu_check.py: one table of commands, what each makes and needs, and how long it may take."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from modist_profiling.gpu_check import findings as findings
from modist_profiling.gpu_check.findings import Findings


@dataclass(frozen=True)
class Stage:
    """A command of the check."""

    name: str
    what: str
    command: tuple[str, ...]
    """Run from the top of the checkout."""
    limit: float
    """Seconds."""
    makes: tuple[str, ...] = ()
    """Files below the folder; the stage has failed where one is missing."""
    needs: tuple[str, ...] = ()
    """Stages that must have succeeded."""
    stdout: str = ""
    """File below the folder for standard output; the log has both streams otherwise."""
    kept: dict[str, str] = field(default_factory=dict)
    """What is copied into the folder afterwards: path below WORK to path below the folder."""
    read: Callable[[Path], Findings] = findings.nothing
    """Figures, and what is wrong with them, from the folder."""
    obstacle: str = ""
    """Why this machine cannot run it; then nobody is to blame."""


@dataclass(frozen=True)
class Setting:
    """What the table depends on."""

    out: Path
    """The folder."""
    work: Path
    """A folder for videos, store and checkpoints, which are not kept."""
    dry_run: bool = False
    num_gpus: int = 1
    memory_gb: float = 0.0
    """Of the first GPU."""
    write: bool = False
    """Whether the kernel table is edited."""


STEP_ROWS_GB = 20
"""Six processes of R3D-18 side by side; an estimate."""


def stages(setting: Setting) -> list[Stage]:
    """All stages in order."""
    return [*_tests(setting), *_benchmarks(setting), *_demo(setting)]


def _python(*words: object) -> tuple[str, ...]:
    return (sys.executable, *map(str, words))


def _tests(setting: Setting) -> list[Stage]:
    out, dry = setting.out, setting.dry_run
    if dry:
        tests = _python("-m", "pytest", "-q", "-m", "gpu", "--collect-only")
    else:
        tests = _python("-m", "pytest", "-q", "-m", "gpu", "--junitxml", out / "gpu-tests.xml")
    device = ("--device", "cpu", "--num", 2048, "--size", 64, "--clips", 4) if dry else ("--device", "cuda")
    return [
        Stage(
            "doctor",
            "what is installed, and what each absence costs",
            _python("-m", "modist_fast", "doctor", "--json"),
            limit=300,
            makes=("doctor.json",),
            stdout="doctor.json",
            read=findings.doctor if dry else findings.gpu_doctor,
        ),
        Stage(
            "gpu-tests",
            "collects the tests marked gpu" if dry else "runs the tests marked gpu",
            tests,
            limit=2400,
            makes=("gpu-tests.txt",) if dry else ("gpu-tests.xml",),
            stdout="gpu-tests.txt" if dry else "",
            read=findings.collected_tests if dry else findings.gpu_tests,
        ),
        Stage(
            "parity",
            "kernels and clip graphs against float64, and the GPU's graph against the CPU's",
            _python("profiling/parity.py", *device, "--json", out / "parity.json"),
            limit=900,
            makes=("parity.json",),
            read=findings.parity,
        ),
    ]


def _benchmarks(setting: Setting) -> list[Stage]:
    out, dry = setting.out, setting.dry_run
    device = ("--device", "cpu" if dry else "cuda")

    def bench(name: str, what: str, limit: float, read: Callable[[Path], Findings], *words: object, obstacle: str = ""):
        script = (
            "profiling/bench_step.py" if name.startswith("bench-step") else f"profiling/{name.replace('-', '_')}.py"
        )
        files = ("--json", out / f"{name}.json", "--plot", out / f"{name}.png")
        made = (f"{name}.json", f"{name}.png")
        command = _python(script, *device, *words, *files)
        return Stage(name, what, command, limit, made, read=read, obstacle=obstacle)

    quick = ("--seconds", 0.2, "--rounds", 3, "--no-count")
    loss = ("--batch", 4, "--num", 2048, "--dim", 64, "--no-compile", *quick) if dry else ("--num", 65536, "--sweep")
    edges = ("--frames", 2, "--size", 40, *quick) if dry else ("--sweep",)
    step = ("--part", "step", "--no-choices")
    if dry:
        step += ("--batch", 2, "--crop", 32, "--bank", 256, "--rounds", 1, "--threads", 1)
        tuning = ("--ahead-of-time", "--architecture", 90, "--dims", 128, "--block-rows", 32)
    else:
        step += ("--preset", "modist-r50", "--crop", 224, "--bank", 65536)
        tuning = ("--dims", 128, "--json", out / "kernel_table.json", *(["--write"] if setting.write else []))
    found = [
        bench("bench-loss", "the loss over both banks", 1800, findings.benchmark("bench-loss", 1), *loss),
        bench("bench-edges", "flow to edge maps", 1200, findings.benchmark("bench-edges", 1), *edges),
        bench("bench-step", "a training step against the plain one", 1200, findings.benchmark("bench-step"), *step),
        Stage(
            "kernel-table",
            "compiles one entry ahead of time" if dry else "times launch configurations at C 128",
            _python("profiling/tune_kernels.py", *tuning),
            limit=3600,
            makes=("kernel_table.txt",) if dry else ("kernel_table.json",),
            stdout="kernel_table.txt" if dry else "",
            read=findings.compiled_entries if dry else findings.kernel_table,
        ),
    ]
    if not dry:
        name = "bench-step-compile"
        read = findings.benchmark(name)
        found.insert(3, bench(name, "the same with torch.compile", 2400, read, *step, "--compile"))
        name = "bench-step-choices"
        small = setting.memory_gb < STEP_ROWS_GB
        obstacle = f"six processes share the GPU; skipped below {STEP_ROWS_GB} GB of memory" if small else ""
        read = findings.benchmark(name)
        what = "R3D-18 128²: what each choice is worth; backbones of others"
        found.insert(4, bench(name, what, 2400, read, obstacle=obstacle))
    return found


def _demo(setting: Setting) -> list[Stage]:
    out, work, dry = setting.out, setting.work, setting.dry_run
    every = 2 if dry else setting.num_gpus
    videos = 4 if dry else max(192, 16 * every)
    found = [
        Stage(
            "demo-videos",
            "makes videos",
            _python("launch/make_demo_videos.py", work / "videos", "--num-videos", videos),
            limit=900,
        ),
        Stage(
            "demo-store",
            "prepares them: frames, flow, edges",
            _python("launch/prepare.py", work / "videos", "--out", work / "store", "--short-side", 72),
            limit=1800,
            needs=("demo-videos",),
        ),
    ]
    one = "one process" if dry else "one GPU"
    all_of_them = f"{every} processes" if dry else f"all {every} GPUs"
    for suffix, processes, title in (("one", 1, one), ("all", every, all_of_them)):
        obstacle = "" if dry or suffix == "one" or every > 1 else "there is one GPU, which the stage before it used"
        run, kept = work / f"run-{suffix}", f"run-{suffix}"
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes)
        launcher = () if processes == 1 else torchrun
        train = ("launch/pretrain.py", "--preset", "demo", "--store", work / "store", "--out", run, "--profile.trace")
        if dry:
            train += ("--device", "cpu", "--batch-size", 4, "--group-size", 2, "--objective.bank-size", 16)
            train += ("--model.visual-width", 8, "--clips.crop-size", 32, "--max-steps", 8)
            train += ("--profile.start", 5, "--profile.steps", 1)
        else:  # an epoch is six steps: too few for a budget; ten of them
            train += ("--device", "cuda", "--batch-size", max(32, 16 * processes), "--max-steps", 60)
            train += ("--profile.start", 40, "--profile.steps", 2)
        files = ("budget.json", "budget.jsonl", "clips.png", "loss.png", "metrics.jsonl", "config.json")
        files += ("environment.json", "profile/trace-rank0.json.gz")
        copies = {f"run-{suffix}/{name}": f"{kept}/{Path(name).name}" for name in files}
        found.append(
            Stage(
                f"pretrain-{suffix}",
                f"profiled run of the demo on {title}",
                _python(*launcher, *train),
                limit=900,
                needs=("demo-store",),
                makes=tuple(copies.values()),
                kept=copies,
                read=findings.budget(kept),
                obstacle=obstacle,
            )
        )
        page = f"report-{suffix}.html"
        found.append(
            Stage(
                f"report-{suffix}",
                f"page of that run on {title}",
                _python("profiling/report.py", run, "--out", out / page),
                limit=300,
                needs=(f"pretrain-{suffix}",),
                makes=(page,),
                obstacle=obstacle,
            )
        )
    return found

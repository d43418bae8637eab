"""Everything that only a GPU can show, in one folder that can be attached to an issue: `make gpu-check` runs it.

    modist bench gpu-check                      # on a machine with a GPU: about an hour
    modist bench gpu-check --only first         # what settles most: kernels, layers, one step
    modist bench gpu-check --deadline 540       # as much as fits; then, as often as need be:
    modist bench gpu-check --deadline 540 --skip-done
    modist bench gpu-check --dry-run            # anywhere: every stage that can, tiny, on the CPU
    modist bench gpu-check --list               # the stages and their commands

In a checkout that is not installed, PYTHONPATH=.:kernels:pipelines:profiling before it. Kernels, layers and steps, the
doctor, the tests marked gpu, the errors of kernels and graphs against float64, the benchmarks at the paper's shapes,
the launch configurations of the kernels, a profiled run of the demo on one and on all GPUs, and the paper's nets on
1, 2, 4 and 8. A stage that fails or hangs stops no other, none has more than nine minutes, and all is written after
each; the exit code is 1 if any is not ok.
"""

import json
import math
import shutil
import signal
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modist_fast.commands.cli import parse_options
from modist_fast.errors import ConfigError
from modist_pipelines.ranges import POSITIVE, ranged
from modist_profiling.gpu_check.page import ATTACHMENT_LIMIT_MB, DRY_RUN, machine, next_steps, write_results, write_zip
from modist_profiling.gpu_check.runner import Folders, Result, read_figures, readable, run_stages
from modist_profiling.gpu_check.stage import Setting, Stage
from modist_profiling.gpu_check.stages import stages


@dataclass(frozen=True)
class Options:
    """Check this project on the GPUs at hand."""

    out: Path = Path("gpu-check")
    """The folder, made anew; OUT.zip is the same to attach. OUT-work has videos, stores and runs."""
    dry_run: bool = False
    """On a CPU, tiny: shows that every stage starts, and no GPU's figures."""
    list: bool = False
    """Print the stages and run none."""
    only: tuple[str, ...] = ()
    """Stages to run, and those that they need; `first` is all of `first-…`. All by default."""
    skip_done: bool = False
    """Go on with what OUT holds: stages that were ok there do not run again."""
    deadline: float | None = ranged(None, POSITIVE)
    """Be done within so many seconds: limits are cut to what is left, and stages without 20 s are skipped."""
    write: bool = False
    """Take the fastest launch configurations over into kernels/modist_kernels/configurations.json."""


def chosen(table: Sequence[Stage], only: Sequence[str]) -> list[Stage]:
    """The stages named in `only` with all that they need, in the table's order; all stages if none is named.

    Raises:
        ConfigError: no such stage.
    """
    by_name = {stage.name: stage for stage in table}
    found = {
        name: [name] if name in by_name else [one for one in by_name if one.startswith(f"{name}-")] for name in only
    }
    if unknown := [name for name, stages in found.items() if not stages]:
        raise ConfigError(f"--only {' '.join(unknown)}: no such stage. There are: {', '.join(by_name)}.")
    wanted, open_names = set(), [name for stages in found.values() for name in stages] or list(by_name)
    while open_names:
        name = open_names.pop()
        wanted.add(name)
        open_names += by_name[name].needs
    return [stage for stage in table if stage.name in wanted]


def setting_of(options: Options) -> Setting:
    """What this machine has.

    Raises:
        ConfigError: no GPU, and neither a dry run nor a list is asked for.
    """
    num = 0 if options.dry_run else torch.cuda.device_count()
    if num == 0 and not options.dry_run and not options.list:
        raise ConfigError(
            "torch sees no CUDA device here, and this check is of GPUs. Run it where `nvidia-smi` lists one (is torch "
            "a CUDA build, is CUDA_VISIBLE_DEVICES empty? `modist doctor` says), or pass --dry-run "
            "to run every stage small on the CPU."
        )
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9 if num else 0.0
    return Setting(options.dry_run, max(1, num), memory, options.write)


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier check.

    Raises:
        ConfigError: it does.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "results.json").is_file():
        raise ConfigError(f"--out {folder} is not empty, and no earlier check. Pass another folder.")


def earlier_results(table: Sequence[Stage], folder: Path, facts: dict[str, Any], dry_run: bool) -> dict[str, Result]:
    """What an earlier check found, by stage; of commands that have changed since, nothing.

    Raises:
        ConfigError: it was made on other devices, or with other versions, so one page cannot hold both.
    """
    path = folder / "results.json"
    if not path.is_file():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    then, now = ({"dry_run": dry, **of} for dry, of in ((record["dry_run"], record["machine"]), (dry_run, facts)))
    differ = [name for name in ("dry_run", "devices", "versions") if then[name] != now[name]]
    if differ:
        words = "; ".join(f"{name}: {then[name]} then, {now[name]} now" for name in differ)
        raise ConfigError(f"--skip-done: {folder} is of another machine or kind ({words}). Pass another --out.")
    found, by_name = {}, {stage.name: stage for stage in table}
    for one in record["stages"]:
        stage = by_name.get(one["name"])
        if stage is None or one["command"] != readable(stage.command):
            continue
        found[stage.name] = result = Result(stage, one["state"], one["seconds"], one["exit_code"], one["message"])
        if result.state == "ok":
            read_figures(result, folder)
    return found


def to_run(results: dict[str, Result], wanted: Collection[str], work: Path) -> list[str]:
    """Of the stages that are wanted: what is not good, and what they need that has gone from WORK since, in order."""
    names = [name for name in wanted if not results[name].is_good]
    for name in names:  # it grows
        needs = results[name].stage.needs
        names += [need for need in needs if need not in names and not (work / results[need].stage.work).exists()]
    return [name for name in results if name in names]


def print_list(table: Sequence[Stage]) -> None:
    for stage in table:
        print(f"{stage.name}: {stage.what} (at most {stage.limit / 60:.1f} minutes)")
        print(f"    {readable(stage.command)}")
        for title, names in (("makes", stage.makes), ("needs", stage.needs)):
            if names:
                print(f"    {title} {', '.join(names)}")
        if stage.obstacle:
            print(f"    not here: {stage.obstacle}")


def check(
    table: Sequence[Stage],
    folders: Folders,
    dry_run: bool,
    *,
    only: Sequence[str] = (),
    skip_done: bool = False,
    deadline: float = math.inf,
) -> int:
    """Run stages of `table`, have the folder say after each what came out, and print it in the end.

    Args:
        deadline: by `time.monotonic`.

    Returns:
        The exit code: 1 where a stage is not ok.
    """
    facts = machine()
    wanted = [stage.name for stage in chosen(table, only)]
    earlier = earlier_results(table, folders.out, facts, dry_run) if skip_done else {}
    results = {
        stage.name: earlier.get(stage.name) or Result(stage) for stage in table if stage.name in {*wanted, *earlier}
    }
    names = to_run(results, wanted, folders.work)
    for name in names:
        results[name] = Result(results[name].stage)
    found = list(results.values())

    def keep() -> None:
        write_results(folders.out, found, facts, dry_run)
        write_zip(folders.out)

    keep()
    run_stages(results, names, folders, deadline, lambda line: print(line, flush=True), keep)
    archive = folders.out.with_name(f"{folders.out.name}.zip")
    megabytes = archive.stat().st_size / 1e6
    print(f"\n{folders.out / 'README.md'}\n{archive} ({megabytes:.1f} MB)")
    if megabytes > ATTACHMENT_LIMIT_MB:
        print(f"That is more than most trackers take ({ATTACHMENT_LIMIT_MB} MB): leave the traces in pretrain-* out.")
    print("\n".join(next_steps(found, folders.out, dry_run)))
    return 0 if all(result.is_good for result in found) else 1


def main() -> int:
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a stage ends with this process
    options = parse_options(Options, description=__doc__)
    folder = options.out.resolve()
    # Beside the folder, not in /tmp, which may be small.
    folders = Folders(folder, folder.with_name(f"{folder.name}-work"))
    table = stages(setting_of(options))
    selected = chosen(table, options.only)
    if options.list:
        print_list(selected)
        return 0
    check_folder(folder)
    if not options.skip_done:
        for path in (folders.out, folders.work):
            shutil.rmtree(path, ignore_errors=True)
    for path in (folders.out, folders.work):
        path.mkdir(parents=True, exist_ok=True)
    if options.dry_run:
        print(DRY_RUN)
    deadline = math.inf if options.deadline is None else begun + options.deadline
    return check(table, folders, options.dry_run, only=options.only, skip_done=options.skip_done, deadline=deadline)

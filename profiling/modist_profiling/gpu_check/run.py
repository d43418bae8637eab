"""Everything that only a GPU can show, in one folder that can be attached to an issue: `make gpu-check` runs it.

    python profiling/gpu_check.py                      # on a machine with a GPU: about an hour
    python profiling/gpu_check.py --dry-run            # anywhere: every stage that can, tiny, on the CPU
    python profiling/gpu_check.py --list               # the stages and their commands
    python profiling/gpu_check.py --only parity pretrain-one

The doctor, the tests marked gpu, the errors of kernels and graphs against float64, the benchmarks at the paper's
shapes, the launch configurations of the kernels, and a profiled run of the demo on one and on all GPUs. A stage that
fails or hangs stops no other; the exit code is 1 if any did.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from modist_fast.errors import ConfigError
from modist_profiling.gpu_check.page import ATTACHMENT_LIMIT_MB, DRY_RUN, machine, next_steps, write_results, write_zip
from modist_profiling.gpu_check.runner import WORK_PREFIX, readable, run_stages
from modist_profiling.gpu_check.stages import Setting, Stage, stages


@dataclass(frozen=True)
class Options:
    """Check this project on the GPUs at hand."""

    out: Path = Path("gpu-check")
    """The folder, made anew; OUT.zip is the same to attach."""
    dry_run: bool = False
    """On a CPU, tiny: shows that every stage starts, and no GPU's figures."""
    list: bool = False
    """Print the stages and run none."""
    only: tuple[str, ...] = ()
    """Stages to run, and those that they need; all by default."""
    write: bool = False
    """Take the fastest launch configurations over into kernels/modist_kernels/configurations.py."""


def chosen(table: Sequence[Stage], only: Sequence[str]) -> list[Stage]:
    """The stages named in `only` with all that they need, in the table's order; all stages if none is named.

    Raises:
        ConfigError: no such stage.
    """
    by_name = {stage.name: stage for stage in table}
    if unknown := [name for name in only if name not in by_name]:
        raise ConfigError(f"--only {' '.join(unknown)}: no such stage. There are: {', '.join(by_name)}.")
    wanted, open_names = set(), [*(only or by_name)]
    while open_names:
        name = open_names.pop()
        wanted.add(name)
        open_names += by_name[name].needs
    return [stage for stage in table if stage.name in wanted]


def setting_of(options: Options, folder: Path, work: Path) -> Setting:
    """What this machine has.

    Raises:
        ConfigError: no GPU, and neither a dry run nor a list is asked for.
    """
    num = 0 if options.dry_run else torch.cuda.device_count()
    if num == 0 and not options.dry_run and not options.list:
        raise ConfigError(
            "torch sees no CUDA device here, and this check is of GPUs. Run it where `nvidia-smi` lists one (is torch "
            "a CUDA build, is CUDA_VISIBLE_DEVICES empty? `python -m modist_fast doctor` says), or pass --dry-run "
            "to run every stage small on the CPU."
        )
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9 if num else 0.0
    return Setting(folder, work, options.dry_run, max(1, num), memory, options.write)


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier check.

    Raises:
        ConfigError: it does.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "results.json").is_file():
        raise ConfigError(f"--out {folder} is not empty, and no earlier check. Pass another folder.")


def print_list(table: Sequence[Stage]) -> None:
    for stage in table:
        print(f"{stage.name}: {stage.what} (at most {stage.limit / 60:.0f} minutes)")
        print(f"    {readable(stage.command)}")
        for title, names in (("makes", stage.makes), ("needs", stage.needs)):
            if names:
                print(f"    {title} {', '.join(names)}")
        if stage.obstacle:
            print(f"    not here: {stage.obstacle}")


def check(table: Sequence[Stage], folder: Path, work: Path, dry_run: bool) -> int:
    """Run the stages of `table` into `folder`, and say what came out.

    Returns:
        The exit code: 1 where a stage failed.
    """
    facts = machine()
    found = list(run_stages(table, folder, work, lambda line: print(line, flush=True)).values())
    write_results(folder, found, facts, dry_run)
    archive = write_zip(folder)
    megabytes = archive.stat().st_size / 1e6
    print(f"\n{folder / 'README.md'}\n{archive} ({megabytes:.1f} MB)")
    if megabytes > ATTACHMENT_LIMIT_MB:
        print(f"That is more than most trackers take ({ATTACHMENT_LIMIT_MB} MB): leave the traces in run-* out.")
    print("\n".join(next_steps(found, folder, dry_run)))
    return 0 if all(result.is_good for result in found) else 1


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    folder = options.out.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, not in /tmp, which may be small.
    with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=folder.parent) as work:
        setting = setting_of(options, folder, Path(work))
        table = chosen(stages(setting), options.only)
        if options.list:
            print_list(table)
            return 0
        check_folder(folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if options.dry_run:
            print(DRY_RUN)
        return check(table, folder, setting.work, options.dry_run)

"""The folder that gpu_check.py leaves: README.md, results.json, and all of it as a zip."""

import importlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from modist_fast.host.environment import environment
from modist_profiling.frame.report import table
from modist_profiling.gpu_check.runner import Result, log_of, readable

ATTACHMENT_LIMIT_MB = 25
DRY_RUN = "dry run on a CPU: no figure here is a GPU's"


def machine() -> dict[str, Any]:
    """Software, hardware and driver. No host names, no paths."""
    devices = []
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        chip = f"sm_{found.major}{found.minor}"
        devices.append({"name": found.name, "memory_gb": round(found.total_memory / 1e9, 1), "chip": chip})
    cudnn = torch.backends.cudnn.version()
    return environment() | {"devices": devices, "driver": _driver() if devices else None, "cudnn": cudnn}


def _driver() -> str | None:
    """NVML's word; None where it cannot be asked, which the doctor's stage explains."""
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    return version


def next_steps(results: Sequence[Result], folder: Path, dry_run: bool) -> list[str]:
    """What to do now."""
    steps = []
    if bad := [result.stage.name for result in results if not result.is_good]:
        again = f"modist bench gpu-check --out {folder.name} --skip-done{' --dry-run' if dry_run else ''}"
        steps.append(
            f"Not ok, or not run yet: {', '.join(bad)}. The reason is in the table, all of it in `logs/`; "
            f"each command can be run by itself. After a cure, or with more time, `{again}` runs these and no others."
        )
    if dry_run:
        steps.append("On a machine with a GPU: `make gpu-check`.")
        return steps
    steps.append(
        f"Attach `{folder.name}.zip` to an issue, whatever the verdicts: nothing is known yet of most GPUs. Logs name "
        "paths of your machine; read them first if that matters to you."
    )
    tables = [result.stage.makes[0] for result in results if _is_kernel_table(result)]
    commands = [f"modist tune-kernels --entries {folder.name}/{name} --write" for name in tables]
    if commands:
        steps.append(f"Use the launch configurations that were fastest here: `{' && '.join(commands)}`.")
    return steps


def _is_kernel_table(result: Result) -> bool:
    return result.stage.name.startswith("kernel-table") and result.state == "ok"


def write_results(folder: Path, results: Sequence[Result], facts: dict[str, Any], dry_run: bool) -> None:
    """README.md and results.json."""
    steps = next_steps(results, folder, dry_run)
    stages = [
        {
            "name": result.stage.name,
            "what": result.stage.what,
            "command": readable(result.stage.command),
            "state": result.state,
            "seconds": round(result.seconds, 2),
            "exit_code": result.exit_code,
            "message": result.message,
            "figures": result.findings.figures,
            "files": [name for name in result.stage.makes if (folder / name).is_file()],
            "log": log_of(result.stage) if (folder / log_of(result.stage)).is_file() else None,
        }
        for result in results
    ]
    good = all(result.is_good for result in results)
    record = {"ok": good, "dry_run": dry_run, "machine": facts, "stages": stages, "next": steps}
    for name, text in (
        ("results.json", json.dumps(record, indent=1) + "\n"),
        ("README.md", _page(folder, results, facts, steps, dry_run)),
    ):  # never half of one: a call that goes on reads it
        (folder / f"{name}.part").write_text(text, encoding="utf-8")
        (folder / f"{name}.part").replace(folder / name)


def _page(folder: Path, results: Sequence[Result], facts: dict[str, Any], steps: list[str], dry_run: bool) -> str:
    waiting = [result.stage.name for result in results if result.state == "not run yet"]
    bad = [result.stage.name for result in results if not result.is_good and result.stage.name not in waiting]
    blocks = ["# GPU check of modist-fast"]
    if dry_run:
        blocks.append(f"**{DRY_RUN[0].upper()}{DRY_RUN[1:]}.**")
    verdicts = [f"{len(bad)} of {len(results)} stages are not ok: {', '.join(bad)}"] if bad else []
    verdicts += [f"Not run yet: {', '.join(waiting)}"] if waiting else []
    blocks += [f"**{verdict}**" for verdict in verdicts or ["All is well."]]
    blocks.append(_machine_table(facts))
    rows = [
        (
            result.stage.name,
            result.state if result.is_good else f"**{result.state}**",
            f"{result.seconds:.0f}",
            _brief(result),
            f"[log]({log_of(result.stage)})" if (folder / log_of(result.stage)).is_file() else "",
        )
        for result in results
    ]
    blocks += ["## Stages", table(("stage", "verdict", "seconds", "figures", ""), rows)]
    blocks += ["## What to do next", "\n".join(f"- {step}" for step in steps)]
    for result in results:
        blocks += _section(folder, result)
    return "\n\n".join(blocks) + "\n"


def _machine_table(facts: dict[str, Any]) -> str:
    devices = [f"{one['name']}, {one['memory_gb']} GB, {one['chip']}" for one in facts["devices"]]
    rows = [
        ("device", "; ".join(f"{devices.count(one)} × {one}" for one in dict.fromkeys(devices)) or "none: a CPU"),
        ("driver", facts["driver"] or "none"),
        ("CPU", f"{facts['cpu']}, {facts['cpu_cores']} cores"),
        ("Python; CUDA, cuDNN of torch", f"{facts['python']}; {facts['cuda']}, {facts['cudnn']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())),
        ("revision", facts["git_revision"] or "not a checkout"),
    ]
    return table(("machine", ""), rows)


def _brief(result: Result) -> str:
    """The message, then the figures, in one cell."""
    words = [result.message] if result.message else []
    for name, value in result.findings.figures.items():
        if isinstance(value, list):
            value = ", ".join(map(str, value[:6])) + (" …" if len(value) > 6 else "") or "none"
        words.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    return "<br>".join(words).replace("|", "\\|").replace("\n", " ")


def _section(folder: Path, result: Result) -> list[str]:
    """Table, files and pictures of a stage, where it has any."""
    files = [name for name in result.stage.makes if (folder / name).is_file()]
    if not (result.findings.text or files):
        return []
    pictures = [f"![{name}]({name})" for name in files if name.endswith(".png")]
    links = ", ".join(f"[{name}]({name})" for name in files)
    shown = [f"## {result.stage.name}: {result.stage.what}", f"`{readable(result.stage.command)}`"]
    return [*shown, *filter(None, [result.findings.text, links, "\n".join(pictures)])]


def write_zip(folder: Path) -> Path:
    """FOLDER.zip beside the folder; an earlier one stands until this one is whole."""
    part = shutil.make_archive(f"{folder}.part", "zip", root_dir=folder.parent, base_dir=folder.name)
    return Path(part).replace(folder.with_name(f"{folder.name}.zip"))

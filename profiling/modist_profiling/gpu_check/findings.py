"""What gpu_check.py reads from the files of its stages: figures, tables, and what is wrong with them."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from modist_fast.watch.budget import table as budget_table
from modist_profiling.frame.report import table, tables

NEEDED_ON_A_GPU = ("DALI", "kernels", "CUDA devices", "Triton", "NCCL", "NVML")


@dataclass
class Findings:
    """Of one stage."""

    figures: dict[str, Any] = field(default_factory=dict)
    """JSON-ready."""
    text: str = ""
    """Markdown for the page: a table of the figures that have more than a name."""
    problems: list[str] = field(default_factory=list)
    """Each of them makes the stage a failure."""


def nothing(folder: Path) -> Findings:
    return Findings()


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# ---- Doctor, tests, parity


def doctor(folder: Path) -> Findings:
    """Parts that are not as they should be; none of them a problem on a CPU, for the doctor's exit code says so."""
    checks = _load(folder / "doctor.json")["checks"]
    ill = [check["name"] for check in checks if check["state"] != "ok"]
    return Findings({"parts": len(checks), "not_ok": ill})


def gpu_doctor(folder: Path) -> Findings:
    """The same; what a GPU needs must be ok."""
    found = doctor(folder)
    checks = _load(folder / "doctor.json")["checks"]
    for check in checks:
        if check["name"] in NEEDED_ON_A_GPU and check["state"] != "ok":
            found.problems.append(f"{check['name']}: {check['found']}; {check['cure']}")
    return found


def gpu_tests(report: str) -> Callable[[Path], Findings]:
    """Reader of pytest's report: counts. Tests that were skipped have shown nothing, so they are named."""

    def read(folder: Path) -> Findings:
        suites = ElementTree.parse(folder / report)
        cases = list(suites.iter("testcase"))
        # A test in which pytest was ended has a case and no mark; the suite does not count it.
        unfinished = len(cases) - sum(int(suite.get("tests", 0)) for suite in suites.iter("testsuite"))

        def names(*kinds: str) -> list[str]:
            chosen = [case for case in cases if any(case.find(kind) is not None for kind in kinds)]
            return [f"{case.get('classname')}::{case.get('name')}" for case in chosen]

        failed, skipped = names("failure", "error"), names("skipped")
        passed = len(cases) - len(failed) - len(skipped) - unfinished
        found = Findings({"passed": passed, "failed": failed, "skipped": skipped, "unfinished": unfinished})
        if failed:
            found.problems.append(f"{len(failed)} of {len(cases)} tests failed: {', '.join(failed[:5])}")
        if not passed:
            found.problems.append("no test ran")
        return found

    return read


def collected_tests(output: str) -> Callable[[Path], Findings]:
    """Reader of what `pytest --collect-only` printed: the number of tests."""

    def read(folder: Path) -> Findings:
        match = re.search(r"(\d+)(?:/\d+)? tests? collected", (folder / output).read_text(encoding="utf-8"))
        number = int(match.group(1)) if match else 0
        return Findings({"collected": number}, problems=[] if number else ["no test marked gpu was collected"])

    return read


def parity(folder: Path) -> Findings:
    """The figure nearest to its bound for each result of each kernel and graph."""
    rows = _load(folder / "parity.json")["rows"]
    beyond = [f"{row['what']} ({row['case']}): {row['error']:.2e}" for row in rows if not row["holds"]]
    worst: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["what"], row["against"]
        share = row["error"] / row["bound"]
        if key not in worst or not share <= worst[key]["error"] / worst[key]["bound"]:
            worst[key] = row
    cells = [
        (row["what"], row["case"], row["against"], f"{row['error']:.2e}", f"{row['bound']:.2e}", row["unit"])
        for row in worst.values()
    ]
    text = table(("result", "worst case", "against", "error", "bound", "unit"), cells)
    return Findings({"figures": len(rows), "beyond_bounds": beyond}, text, beyond)


# ---- Layers, steps, benchmarks


FORMS = ("3D", "4D", "fused, with ReLU")


def layers(folder: Path) -> Findings:
    """Milliseconds of each form, over all layers of a net that were timed in two forms at least."""
    record = _load(folder / "first-layers.json")
    sums: dict[tuple[str, str], Counter[str]] = {}
    refused = []
    for row in record["rows"]:
        refused += [f"{row['net']} {row['kind']} {row['input']}: {row[key]}" for key in row if key.endswith("_error")]
        if sum(form in row for form in FORMS) > 1:
            total = sums.setdefault((row["net"], row["kind"]), Counter())
            total.update({form: row["count"] * row[form] for form in FORMS if form in row})
    cells = [(*key, *(f"{total[form]:.3f}" if form in total else "" for form in FORMS)) for key, total in sums.items()]
    text = table(("net", "layers", *(f"{form}, ms" for form in FORMS)), cells)
    return Findings(record["ratios"] | {"refused": refused}, text)


def one_step(report: str) -> Callable[[Path], Findings]:
    """Reader of a step: launches, times, and the kernels that take longest."""

    def read(folder: Path) -> Findings:
        [row] = _load(folder / report)["rows"]
        names = ("step_ms", "host_ms", "busy_ms", "launches", "host_launches", "copies", "warm_up_s", "device_mb")
        figures = {name: row[name] for name in names}
        figures["tflops_per_s"] = row["flops"] / row["step_ms"] / 1e9
        cells = [(name.replace("|", "/"), calls, f"{ms:.3f}") for name, calls, ms in row["by_kernel"][:15]]
        return Findings(figures, table(("longest kernels", "calls", "ms"), cells))

    return read


def benchmark(name: str, most: int | None = None) -> Callable[[Path], Findings]:
    """Reader of what a benchmark wrote: its ratios, and its tables, or the first ones."""

    def read(folder: Path) -> Findings:
        record = _load(folder / f"{name}.json")
        return Findings(record["ratios"], "\n\n".join(tables(record["rows"])[:most]))

    return read


# ---- The kernel table, runs


TIMES = ("microseconds", "shipped_microseconds")


def kernel_table(entries: str) -> Callable[[Path], Findings]:
    """Reader of the entries that were fastest here, beside the shipped ones."""

    def read(folder: Path) -> Findings:
        measured = _load(folder / entries)
        tiles = measured["queue_infonce"]
        shown = ("dim", "block_rows", "block_negatives", "num_warps", "num_stages", "num_programs", *TIMES)
        text = table(shown, [[one[name] for name in shown] for one in tiles])
        largest = max((one["shipped_microseconds"] / one["microseconds"] for one in tiles), default=0.0)
        [edges] = measured["flow_edges"]
        figures = {"entries": len(tiles), "largest_gain": largest, "edges_programs": edges["num_programs"]}
        return Findings(figures, text, [] if tiles else ["no configuration fits this chip"])

    return read


def compiled_entries(folder: Path) -> Findings:
    """Entries compiled ahead of time, and those that do not fit."""
    lines = (folder / "kernel-table.txt").read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line.startswith("sm_")]
    unfit = [line for line in entries if ": fits;" not in line]
    return Findings({"compiled": len(entries)}, problems=unfit if entries else ["nothing was compiled"])


def budget(run: str) -> Callable[[Path], Findings]:
    """Reader of a run's step budget."""

    def read(folder: Path) -> Findings:
        summary = _load(folder / run / "budget.json")
        if not summary:
            return Findings(problems=["too few steps for a step budget"])
        text = f"```\n{budget_table(summary)}\n{summary['verdict']}\n```"
        return Findings({key: summary[key] for key in ("bottleneck", "verdict")}, text)

    return read

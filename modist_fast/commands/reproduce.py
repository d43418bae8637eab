"""The paper's figures, each as a gate: modist reproduce --gate k400-mini --out OUT --store STORE --ucf101 FOLDER …"""

import json
import logging
import shlex

from rich.console import Console
from rich.table import Table

from modist_fast.ablation.jobs import run_jobs
from modist_fast.commands.cli import parse_options, run_cli
from modist_fast.host.whole_file import whole_file
from modist_fast.reproduce.gates import Gate, GateConfig, gate_of
from modist_fast.reproduce.rehearsal import job_of_store, lay_out, stand_ins

log = logging.getLogger("modist")
REHEARSAL = "a rehearsal: minutes on two cores"


def main() -> int:
    config = parse_options(GateConfig, description=__doc__)
    if config.rehearse:
        config = stand_ins(config)
    makes_data = config.rehearse and config.gate != "throughput"
    jobs = [job_of_store(config)] if makes_data else []
    gate = gate_of(config)
    print(cost(gate, config), flush=True)
    if config.dry_run:
        print("\n".join(shlex.join(job.command) for job in [*jobs, *gate.jobs]))
        return 0
    if makes_data:
        lay_out(config)
    failed: dict[str, str] = {}
    for job in [*jobs, *gate.jobs]:
        if not failed:
            run_jobs([job], 1, failed)
    for name, reason in failed.items():
        log.error("%s: %s", name, reason)
    return 1 if failed or not judge(gate, config) else 0


def cost(gate: Gate, config: GateConfig) -> str:
    """What the gate will take, as a model, in a paragraph."""
    if config.rehearse:
        return REHEARSAL
    return (
        f"{config.gate}: {gate.gpu_hours / config.processes:.1f} h on {config.processes} GPU(s), "
        f"{gate.gigabytes:.0f} GB. A model, no measurement: {gate.arithmetic}."
    )


def judge(gate: Gate, config: GateConfig) -> bool:
    """Print and write the figures beside the paper's; whether all are near enough."""
    shown = Table("figure", "here", "paper", "within", "")
    rows, good = [], True
    for wanted in gate.wanted:
        value = wanted.read()
        near = abs(value - wanted.paper) <= wanted.within or value > wanted.paper
        verdict = "not judged" if config.rehearse else "passed" if near else "FAILED"
        good &= near or config.rehearse
        shown.add_row(wanted.name, f"{value:.1f}", f"{wanted.paper:.1f}", f"{wanted.within:g}", verdict)
        rows.append({"name": wanted.name, "value": value, "paper": wanted.paper, "verdict": verdict})
    problems = [] if config.rehearse else gate.problems()
    for problem in problems:
        log.error("%s", problem)
    good &= not problems
    if gate.wanted:
        Console().print(shown)
    result = {"gate": config.gate, "rehearsal": config.rehearse, "passed": good, "figures": rows, "problems": problems}
    with whole_file(config.out / "result.json") as half:
        half.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    words = "all ran" if config.rehearse else "passed" if good else "FAILED"
    print(f"{config.gate}{' (rehearsal)' if config.rehearse else ''}: {words}. {config.out / 'result.json'}")
    return good


if __name__ == "__main__":
    run_cli(main)

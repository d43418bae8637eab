"""The commands: `modist NAME …`, or `python -m modist_fast NAME …` where the script is not on the path.

A command's module is imported when it is called, and no sooner: torch alone takes seconds.
"""

import difflib
import importlib
import sys

from modist_fast import __version__

# Names to modules that have a `main`, and what they do. The roof, modist_profiling, is known by name alone.
_FAST, _ROOF = "modist_fast.commands", "modist_profiling"
COMMANDS = {
    "demo": (f"{_FAST}.demo", "the whole way on made-up videos, in minutes"),
    "prepare": (f"{_FAST}.prepare", "turn videos into a store of frames and motion maps"),
    "store": (f"{_FAST}.store", "what a store holds, whether it is whole, and its room: info, check, compact"),
    "pretrain": (f"{_FAST}.pretrain", "train on a store or on raw videos; under torchrun on several processes"),
    "verify": (f"{_FAST}.verify", "take steps of a pre-training run again, and compare"),
    "evaluate": (f"{_FAST}.evaluate", "linear, knn, retrieval, lowshot, finetune, supervised, ava"),
    "features": (f"{_FAST}.features", "features of videos that need no labels, as a file"),
    "predict": (f"{_FAST}.predict", "classes of videos, by a classifier that evaluate trained"),
    "convert": (f"{_FAST}.convert", "a backbone from one library's file to another's, or to a graph"),
    "gradcam": (f"{_FAST}.gradcam", "where backbones look, as pictures and a film"),
    "ablate": (f"{_FAST}.ablate", "the paper's ablation tables"),
    "reproduce": (f"{_FAST}.reproduce", "a figure of the paper as a gate: runs what it needs, passes or fails"),
    "report": (f"{_ROOF}.report.page", "a run, or two side by side, as one HTML page"),
    "doctor": (f"{_FAST}.doctor", "what is installed here, and what each absence costs"),
    "make-demo-videos": (f"{_FAST}.make_demo_videos", "the made-up videos alone"),
    "parity": (f"{_ROOF}.parity", "kernels and clip graphs against float64"),
    "soak": (f"{_ROOF}.soak", "train for some epochs and watch memory and open files"),
    "tune-kernels": (f"{_ROOF}.kernels.tuning", "time launch configurations of the kernels"),
    "model-throughput": (f"{_ROOF}.scaling.throughput", "a model of throughput on GPUs, no measurement"),
    "nsys-budget": (f"{_ROOF}.nsys", "the step budget out of Nsight Systems' tables"),
    "bench loss": (f"{_ROOF}.kernels.loss", "the loss over the banks against its peers"),
    "bench edges": (f"{_ROOF}.kernels.edges", "flow to edge maps against its peers"),
    "bench step": (f"{_ROOF}.step.bench", "a training step against the plain one, and backbones"),
    "bench pipeline": (f"{_ROOF}.data.bench", "the data plane against its peers"),
    "bench host": (f"{_ROOF}.data.host", "host work a frame besides decoding"),
    "bench index": (f"{_ROOF}.data.index", "what a process pays to begin with ten million videos"),
    "bench flows": (f"{_ROOF}.data.flows", "flow edges of codec and RAFT against those of DIS"),
    "bench scaling": (f"{_ROOF}.scaling.bench", "one process against two"),
    "bench gpu-check": (f"{_ROOF}.gpu_check.run", "everything that only a GPU can show"),
}


def overview(part: str = "") -> str:
    """The commands whose names begin with `part`, one a line."""
    shown = {name: what for name, (_, what) in COMMANDS.items() if name.startswith(part)}
    width = max(map(len, shown))
    lines = [f"  {name:{width}}  {what}" for name, what in shown.items()]
    usage = (
        "usage: modist COMMAND …                       (modist COMMAND --help lists its options)\n"
        "       modist --nproc-per-node N COMMAND …    (in N processes; takes torchrun's options)"
    )
    return "\n".join([usage, "", *lines])


def find(words: list[str]) -> tuple[str, list[str]]:
    """The command that `words` begin with, and the words that are left.

    Raises:
        LookupError: none does; the message has the nearest.
    """
    for count in (1, 2):
        if (name := " ".join(words[:count])) in COMMANDS:
            return name, words[count:]
    # By the last word: of `bench losss` that is the part which is wrong, and `loss` alone has one meaning.
    last = {name.rpartition(" ")[2]: name for name in (*COMMANDS, "--help", "--version")}
    grouped = words[1:] and difflib.get_close_matches(words[0], ["bench"])
    near = difflib.get_close_matches(words[1 if grouped else 0], last, n=1)
    wanted = " ".join(words[: 2 if grouped else 1])
    raise LookupError(
        f"error: modist has no command {wanted!r}." + (f" Did you mean {last[near[0]]!r}?" if near else "")
    )


def _in_processes(words: list[str]) -> int | None:
    """Run the command after torchrun's options; the exit code. None where no such options stand before a command."""
    firsts = {name.partition(" ")[0] for name in COMMANDS}
    place = next((place for place, word in enumerate(words) if word in firsts), len(words))
    if not any(word.startswith(("--nproc-per-node", "--nproc_per_node")) for word in words[:place]):
        return None
    if place == len(words):
        print(f"{overview()}\n\nerror: no command follows {' '.join(words)}. Name one of these.", file=sys.stderr)
        return 2
    from modist_fast.host.processes import launch

    return launch(words[:place], words[place:])


def main() -> None:
    """The console script."""
    from modist_fast.commands.cli import run_cli

    words = sys.argv[1:]
    if words[:1] == ["--version"]:
        print(__version__)
        return
    if (code := _in_processes(words)) is not None:
        sys.exit(code)
    bare = [word for word in words if word not in ("-h", "--help")]
    if not bare or (bare == ["bench"]):
        run_cli(lambda: print(overview("bench" if bare else "")))
    try:
        name, rest = find(words)
    except LookupError as error:
        print(f"{overview()}\n\n{error}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"modist {name}", *rest]
    run_cli(importlib.import_module(COMMANDS[name][0]).main)


if __name__ == "__main__":
    main()

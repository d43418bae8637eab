"""An ablation from end to end: prepare, pre-train every arm from every seed, evaluate, compare."""

import json
import logging
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import tyro

from modist_fast.ablation.arms import Arm, Table
from modist_fast.ablation.config import AblationConfig
from modist_fast.ablation.corpora import Corpus, Evaluation, demo_corpus, given_corpus, real_corpora
from modist_fast.ablation.jobs import Job, check_same_commands, run_jobs
from modist_fast.ablation.questions import QUESTIONS, TABLES
from modist_fast.config import TrainConfig
from modist_fast.errors import ConfigError
from modist_fast.host.processes import command
from modist_fast.presets import find_preset
from modist_fast.watch.run_log import read_metrics
from modist_pipelines.plan import eligible_videos, threshold_that_rejects
from modist_pipelines.store.reader import META_NAME, Store

log = logging.getLogger("modist")

_CARD = "backbone.json"  # a run writes it after its weights: where it is, the run is whole
_UNKNOWN, _UNKNOWN_THRESHOLD = "EPOCHS", "THRESHOLD"


@dataclass(frozen=True)
class Run:
    """An arm trained on a corpus from a seed."""

    corpus: Corpus
    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        return f"{self.corpus.name}/{self.arm.name}/seed-{self.seed}"


class Ablation:
    """What is to be run, and where it lies.

    Raises:
        ConfigError: options that do not fit.
    """

    def __init__(self, config: AblationConfig) -> None:
        if len(set(config.seeds)) < len(config.seeds):
            raise ConfigError(f"--seeds {' '.join(map(str, config.seeds))}: name each once.")
        self.table = _chosen(TABLES[config.table], config.arms)
        self.config = config = replace(config, seeds=config.seeds or self.table.seeds)
        self.corpora = _corpora(config, self.table)
        self.failed: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        """Do what is missing.

        Returns:
            Names of the jobs that failed or could not be run, to the reason.
        """
        trained = [run for run in self.runs() if run.arm.trained]
        stages = (
            (1, self.preparation),
            (self.config.jobs, lambda: [self.training(run) for run in trained if run.arm.time_of is None]),
            (self.config.jobs, lambda: [self.training(run) for run in trained if run.arm.time_of is not None]),
            (self.config.jobs, lambda: [self.evaluation(run, test) for run, test in self.tests()]),
        )
        for side_by_side, stage in stages:
            run_jobs(stage(), side_by_side, self.failed)
        return self.failed

    def commands(self) -> Iterator[str]:
        """Every command, for --dry-run. The epochs of an arm of equal time are known once the others have run."""
        jobs = self.preparation() + [self.training(run) for run in self.runs() if run.arm.trained]
        jobs += [self.evaluation(run, test) for run, test in self.tests()]
        check_same_commands([job for job in jobs if not {_UNKNOWN, _UNKNOWN_THRESHOLD} & set(job.command)])
        return (shlex.join(job.command) for job in jobs)

    def preparation(self) -> list[Job]:
        """Videos and stores, each once even where several corpora need it."""
        return list(dict.fromkeys(job for corpus in self.corpora for job in corpus.preparation))

    def runs(self) -> list[Run]:
        """Seed by seed, so that an ablation that is cut short has whole pairs."""
        return [
            Run(corpus, arm, seed) for seed in self.config.seeds for corpus in self.corpora for arm in self.table.arms
        ]

    def tests(self) -> list[tuple[Run, Evaluation]]:
        return [(run, evaluation) for run in self.runs() for evaluation in run.corpus.evaluations]

    def folder(self, run: Run) -> Path:
        return self.config.out / "runs" / run.name

    def test_folder(self, run: Run, evaluation: Evaluation) -> Path:
        return self.config.out / "evaluations" / evaluation.name / run.arm.name / f"seed-{run.seed}"

    def training(self, run: Run) -> Job:
        """modist pretrain for a run."""
        folder = self.folder(run)
        store = run.corpus.codec_store if run.arm.flow == "codec" else run.corpus.store
        words = ["--preset", self.config.preset, "--store", store, "--out", folder, "--seed", run.seed]
        words += ["--resume", "auto", *run.corpus.options, *shlex.split(self.config.options)]
        words += [*self._threshold(run, words), *run.arm.options]
        needs = [job.name for job in run.corpus.preparation]
        if run.arm.time_of is not None:
            other = Run(run.corpus, self._arm(run.arm.time_of), run.seed)
            needs += [same.name for same in self._same_arm(other)] + [same.name for same in self._equal_steps(run)]
            words += ["--epochs", self._epochs_of_equal_time(run)]
        if run.arm.length != 1:
            recipe = find_preset(self.config.preset)(None, folder)
            for option, default in (("--epochs", recipe.epochs), ("--optim.warmup-epochs", recipe.optim.warmup_epochs)):
                given = [after for word, after in pairwise(words) if word == option]
                part = run.arm.length * float(str(given[-1]) if given else default)
                words += [option, round(part) if option == "--epochs" else f"{part:g}"]
        return Job(
            run.name,
            self._command("pretrain", words),
            folder.parent / f"{folder.name}-job",
            folder / _CARD,
            tuple(needs),
        )

    def evaluation(self, run: Run, evaluation: Evaluation) -> Job:
        """modist evaluate for a run."""
        folder = self.test_folder(run, evaluation)
        arm = run.arm
        if arm.trained:
            trained = run
        else:
            shape_of = arm.net_of or next(other.name for other in self.table.arms if other.trained)
            trained = Run(run.corpus, self._arm(shape_of), run.seed)
        backbone = str(self.folder(trained)) if arm.trained or arm.net_of else f"random:{self.folder(trained)}"
        words: list[object] = ["finetune", "--recipe", "small"] if arm.supervised else ["linear"]
        words += ["--backbone", backbone, "--out", folder, "--seed", run.seed]
        if arm.supervised:
            words += ["--epochs", find_preset(self.config.preset)(None, folder).epochs]
        else:
            words += ["--features.folder", self.config.out / "features"]
        if arm.histograms != "none":
            words += ["--beside", run.corpus.histograms]
        if arm.histograms == "alone":
            words += ["--beside-alone"]
        words += evaluation.options
        name = f"{run.name}: {evaluation.name}"
        return Job(name, self._command("evaluate", words), folder, folder / "result.json", (trained.name,))

    def _threshold(self, run: Run, words: Sequence[object]) -> tuple[str, ...]:
        """γ by --reject-share, for the clips and the motion input that the run's options ask for."""
        share = self.config.reject_share
        if share is None or {"--objective.no-motion", "--clips.motion-threshold"} & set(run.arm.options):
            return ()
        if not (run.corpus.store / META_NAME).exists():
            return ("--clips.motion-threshold", _UNKNOWN_THRESHOLD)
        recipe = find_preset(self.config.preset)(None, self.folder(run))
        config = tyro.cli(TrainConfig, args=[*map(str, words), *run.arm.options], default=recipe)
        store = Store.open(run.corpus.store)
        plan = config.plan(store.grid, store.fps)
        threshold = threshold_that_rejects(store, plan, share)
        found = eligible_videos(store, replace(plan, motion_threshold=threshold))
        log.info(
            "%s: γ = %g rejects %.1f %% of the motion windows, and %d of %d videos altogether",
            run.name,
            threshold,
            100 * found.num_rejected / found.num_windows,
            store.num_videos - len(found.videos),
            store.num_videos,
        )
        return ("--clips.motion-threshold", f"{threshold:g}")

    def _command(self, name: str, words: Sequence[object]) -> tuple[str, ...]:
        processes = self.config.processes
        return command(name, *words, processes=processes if processes > 1 else None)

    def _arm(self, name: str) -> Arm:
        return next(arm for arm in self.table.arms if arm.name == name)

    def _same_arm(self, run: Run) -> list[Run]:
        return [Run(run.corpus, run.arm, seed) for seed in self.config.seeds]

    def _equal_steps(self, run: Run) -> list[Run]:
        """The runs of the arm that differs from `run`'s in its length alone."""
        arm = next(arm for arm in self.table.arms if arm.options == run.arm.options and arm.time_of is None)
        return self._same_arm(Run(run.corpus, arm, run.seed))

    def _epochs_of_equal_time(self, run: Run) -> str:
        """Epochs in which the arm takes as long as the one that it is measured by, from all seeds' runs of the two."""
        assert run.arm.time_of is not None
        longer = [self.folder(other) for other in self._same_arm(Run(run.corpus, self._arm(run.arm.time_of), run.seed))]
        shorter = [self.folder(other) for other in self._equal_steps(run)]
        if not all((folder / _CARD).exists() for folder in (*longer, *shorter)):
            return _UNKNOWN
        epochs = json.loads((shorter[0] / "config.json").read_text(encoding="utf-8"))["epochs"]
        ratio = statistics.mean(map(seconds_per_step, longer)) / statistics.mean(map(seconds_per_step, shorter))
        log.info("%s: a step of %s takes %.2f times as long", run.name, run.arm.time_of, ratio)
        return str(round(epochs * ratio))


def _chosen(table: Table, names: Sequence[str]) -> Table:
    """The table with these arms alone; all where none is named."""
    if not names:
        return table
    held = {arm.name: arm for arm in table.arms}
    if unknown := set(names) - held.keys():
        raise ConfigError(f"--arms {' '.join(sorted(unknown))}: choose among those of the table: {', '.join(held)}.")
    arms = tuple(arm for arm in table.arms if arm.name in names)
    for arm in arms:
        steps_like = [other for other in arms if other.options == arm.options and other.time_of is None]
        if arm.time_of is not None and (arm.time_of not in names or not steps_like):
            raise ConfigError(
                f"--arms {arm.name} is measured by {arm.time_of} and by its own arm of equal steps: add them."
            )
    if not any(arm.trained for arm in arms):
        raise ConfigError("--arms: needs one that is trained; the random network takes its shape from it.")
    return replace(table, arms=arms, comparisons=tuple(pair for pair in table.comparisons if set(pair) <= set(names)))


def seconds_per_step(run: Path) -> float:
    """Median time of a run's steps: by the clock on GPUs; of the process on CPUs, since others may share those."""
    gpus = json.loads((run / "environment.json").read_text(encoding="utf-8"))["gpus"]
    return statistics.median(row["seconds" if gpus else "cpu_seconds"] for row in read_metrics(run / "metrics.jsonl"))


def _corpora(config: AblationConfig, table: Table) -> list[Corpus]:
    is_question = config.table in QUESTIONS
    if is_question and config.preset != "small":
        raise ConfigError(f"--table {config.table} is about real videos of --data: leave out --preset {config.preset}.")
    if config.preset == "small":
        if config.store is not None or config.evaluate:
            raise ConfigError(
                "--store and --evaluate belong to --preset k400-mini and modist-r50: pass --data to --preset small."
            )
        corpora = []
        if "demo" in config.sets and not is_question:
            corpora.append(demo_corpus(config.out / "demo", table, config.demo_videos))
        if "real" in config.sets or is_question:
            if config.data is None:
                also = "" if is_question else ", or --sets demo for the made-up videos alone"
                raise ConfigError(f"--table {config.table} on real videos needs --data FOLDER: pass it{also}.")
            corpora += real_corpora(config.data, config.out, table)
        return corpora
    if config.data is not None:
        raise ConfigError(
            f"--data belongs to --preset small: leave it out, and pass --store and --evaluate "
            f"for --preset {config.preset}."
        )
    if config.store is None or not config.evaluate:
        raise ConfigError(f"--preset {config.preset} needs --store STORE to train on, and at least one --evaluate.")
    return [given_corpus(config.store, _parse_evaluations(config.evaluate))]


def _parse_evaluations(lines: Sequence[str]) -> Mapping[str, Sequence[str]]:
    evaluations: dict[str, list[str]] = {}
    for line in lines:
        name, colon, words = line.partition(":")
        if not colon or not name.strip().replace("-", "").isalnum() or name.strip() in evaluations:
            raise ConfigError(
                f'--evaluate "{line}": write "NAME: OPTIONS of modist evaluate linear", each NAME once, of letters, '
                "digits and dashes."
            )
        evaluations[name.strip()] = shlex.split(words)
    return evaluations

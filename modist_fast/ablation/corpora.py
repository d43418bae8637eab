"""What an ablation trains on and is tested on: videos, stores, and the evaluations of each."""

import csv
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modist_fast.ablation.arms import LIGHT_AUGMENTATION, Table
from modist_fast.ablation.jobs import Job
from modist_fast.demo_videos import MOTIONS
from modist_fast.errors import ConfigError
from modist_fast.host.processes import command
from modist_pipelines.store.reader import META_NAME

log = logging.getLogger("modist")

REAL_SETS = ("ut_interaction", "weizmann", "ucf101_6")
_DEMO_TRAIN_SHARE = 0.8
_HELD_OUT = {"split": "test", "group": "held-out"}
# Two seconds, since one is half a cycle of a made-up motion; many videos, each seen 30 times; and colours and crops
# that are soon matched, so that most of the run goes into what moves. docs/evidence.md has the runs that say so.
_DEMO_OPTIONS = (
    *("--epochs", "30", "--optim.warmup-epochs", "1.5", "--optim.lr", "0.3"),
    *("--clips.visual.stride", "8", "--clips.motion.stride", "4"),
    *LIGHT_AUGMENTATION,
)
# Five clips a video, and whole frames brought to one square: a crop would cut off who walks through the picture, and
# the shape of UT-Interaction's frames tells the class.
_USUAL_TASKS = ("weizmann", "ut-interaction", "ut-transfer", "ucf101-6")
# Of full scale. The preset's 0.02 leaves out a fifth of these videos, most of them Weizmann's small persons.
_REAL_OPTIONS = ("--clips.motion-threshold", "0.002")
_SMALL_VIEWS = ("--views.temporal", "5", "--views.fit", "squash")


@dataclass(frozen=True)
class Evaluation:
    """A linear probe: options of `modist evaluate linear`."""

    name: str
    """Also the name of its folder."""
    title: str
    options: tuple[str, ...]
    task: str = ""
    """The same for one test on several corpora."""


@dataclass(frozen=True)
class Corpus:
    """Videos that nets are pre-trained on, and what they are then tested on."""

    name: str
    store: Path
    """What pre-training reads."""
    evaluations: tuple[Evaluation, ...]
    preparation: tuple[Job, ...] = ()
    """In this order."""
    options: tuple[str, ...] = ()
    """Of modist pretrain, for all arms: what the preset has otherwise."""
    codec_store: Path | None = None
    """The same videos as `store`, with flow edges of the codec's motion vectors, where an arm needs them."""
    histograms: Path | None = None
    """Hand-made features of all its videos, `flow_histograms`, where an arm needs them."""


def demo_corpus(out: Path, table: Table, num_videos: int) -> Corpus:
    """The made-up videos, whose classes differ in motion alone: pre-trained and fitted on 4/5 of them, tested on the
    rest, which no training has seen; and fitted and tested in five folds of those that were seen without labels.

    Args:
        out: takes videos, lists and stores.
        num_videos: a multiple of five times the number of classes, so that both parts are balanced.

    Raises:
        ConfigError: it is not.
    """
    multiple = 5 * len(MOTIONS)
    if num_videos < 1 or num_videos % multiple:
        raise ConfigError(
            f"--demo-videos {num_videos}: must be a multiple of {multiple}, for equal classes in both parts."
        )
    videos = out / "videos"
    names = [(f"{list(MOTIONS)[index % len(MOTIONS)]}/{index:04d}.mp4", index) for index in range(num_videos)]
    num_train = round(_DEMO_TRAIN_SHARE * num_videos)
    rows = [
        {"path": name, "label": name.split("/")[0]}
        | ({"split": "train", "group": f"fold-{index // len(MOTIONS) % 5}"} if index < num_train else _HELD_OUT)
        for name, index in names
    ]
    labels = write_list(out / "labels.csv", rows)
    train = write_list(out / "train.csv", (row for row in rows if row["split"] == "train"))
    common = ("--store", str(out / "store"), "--labels", str(labels), *_SMALL_VIEWS)
    make = command("make-demo-videos", videos, "--num-videos", num_videos)
    return Corpus(
        name="demo",
        store=out / "train-store",
        evaluations=(
            Evaluation("demo", "made-up videos, motion class", common),
            Evaluation(
                "demo-seen",
                "made-up videos seen without labels, five folds",
                (*common, "--where", "split=train", "--protocol", "leave-one-group-out"),
            ),
        ),
        preparation=(
            Job("demo/videos", make, out / "jobs" / "videos", videos / names[-1][0]),
            _store_job("demo/train-store", out / "train-store", train, videos, table.motion_inputs, grid=4),
            _store_job("demo/store", out / "store", labels, videos, (), grid=4),
        ),
        options=_DEMO_OPTIONS,
    )


def real_corpora(data: Path, out: Path, table: Table) -> list[Corpus]:
    """UT-Interaction, Weizmann and six classes of UCF101, pre-trained on the training part that the manifest names.

    Where the table asks for folds, fold k of n is a corpus of its own: pre-trained on UCF101's training part and on
    all of Weizmann and UT-Interaction but every n-th actor and sequence, counted from k in the order of their names.

    Args:
        data: a folder with manifest.csv: file, set, class, split and group of every video.
        out: takes a folder a corpus.

    Raises:
        ConfigError: no such manifest, or one of the sets is not in it.
    """
    rows = _manifest(data)
    everything = out / "real"
    labels = write_list(everything / "labels.csv", rows)
    shared = [_store_job("real/store", everything / "store", labels, data, (), grid=2)]
    if any(arm.histograms != "none" for arm in table.arms):
        flow, histograms = everything / "flow-store", everything / "flow-histograms.parquet"
        shared.append(_store_job("real/flow-store", flow, labels, data, ("flow",), grid=2))
        words = (sys.executable, "-m", "modist_fast.ablation.flow_histograms", str(flow), str(histograms))
        shared.append(Job("real/flow-histograms", words, everything / "jobs" / "flow-histograms", histograms))
    if table.folds == 1:
        train = {"real": [row for row in rows if row["split"] == "train"]}
    else:
        train = {f"fold-{fold}": _without_fold(rows, fold, table.folds) for fold in range(table.folds)}
    # A store without `gradient` and one with it may lie side by side, for tables that share a folder.
    suffix = "".join(f"-{name}" for name in table.motion_inputs if name != "edges")
    return [
        _real_corpus(name, out / name / f"train-store{suffix}", listed, data, table, labels, shared)
        for name, listed in train.items()
    ]


def _real_corpus(
    name: str,
    train_store: Path,
    train: Sequence[Mapping[str, str]],
    data: Path,
    table: Table,
    labels: Path,
    shared: Sequence[Job],
) -> Corpus:
    listing = write_list(train_store.parent / "train.csv", train)
    common = ("--store", str(shared[0].result.parent), "--labels", str(labels), *_SMALL_VIEWS)
    by_group = ("--protocol", "leave-one-group-out")
    prefix = "" if name == "real" else f"{name}-"
    tests = {
        "weizmann": ("Weizmann, leave one actor out", ("--where", "set=weizmann", *by_group)),
        "ut-interaction": ("UT-Interaction, leave one sequence out", ("--where", "set=ut_interaction", *by_group)),
        "ut-transfer": (
            "UT-Interaction, set 1 → set 2",
            ("--where", "set=ut_interaction", "--train-where", "path=*/set1_*", "--test-where", "path=*/set2_*"),
        ),
        "ucf101-6": ("UCF101, six classes", ("--where", "set=ucf101_6")),
        "ucf101-folds": ("UCF101, six classes, leave one group out", ("--where", "set=ucf101_6", *by_group)),
    }
    codec_store = train_store.parent / "train-store-codec"
    needs_codec = any(arm.flow == "codec" for arm in table.arms)
    codec_job = _store_job(f"{name}/{codec_store.name}", codec_store, listing, data, ("edges",), grid=2, flow="codec")
    return Corpus(
        name=name,
        store=train_store,
        codec_store=codec_store if needs_codec else None,
        evaluations=tuple(
            Evaluation(f"{prefix}{task}", title, (*common, *options), task)
            for task, (title, options) in tests.items()
            if task in (table.tasks or _USUAL_TASKS)
        ),
        preparation=(
            # A grid of 2 frames: Weizmann's clips are too short for the paper's strides, see `presets.small`.
            _store_job(f"{name}/{train_store.name}", train_store, listing, data, table.motion_inputs, grid=2),
            *([codec_job] if needs_codec else []),
            *shared,
        ),
        options=_REAL_OPTIONS,
        histograms=shared[-1].result if len(shared) > 1 else None,
    )


def _manifest(data: Path) -> list[dict[str, str]]:
    path = data / "manifest.csv"
    if not path.is_file():
        raise ConfigError(f"--data {data} has no manifest.csv with the columns file, set, class, split and group.")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            {"path": row["file"], "label": row["class"], **{name: row[name] for name in ("set", "split", "group")}}
            for row in csv.DictReader(file)
            if row["set"] in REAL_SETS
        ]
    if absent := set(REAL_SETS) - {row["set"] for row in rows}:
        raise ConfigError(
            f"{path} has no videos of {', '.join(sorted(absent))}. Add them, or point --data to a folder that has them."
        )
    return rows


def _without_fold(rows: Sequence[Mapping[str, str]], fold: int, folds: int) -> list[Mapping[str, str]]:
    """The pre-training part of a fold: see `real_corpora`."""
    left_out = {
        (name, group)
        for name in ("weizmann", "ut_interaction")
        for group in sorted({row["group"] for row in rows if row["set"] == name})[fold::folds]
    }
    return [
        row
        for row in rows
        if (row["split"] == "train" if row["set"] == "ucf101_6" else (row["set"], row["group"]) not in left_out)
    ]


def given_corpus(store: Path, evaluations: Mapping[str, Sequence[str]]) -> Corpus:
    """A store that is there, and evaluations in the words of `modist evaluate linear`."""
    return Corpus(
        name="given",
        store=store,
        evaluations=tuple(Evaluation(name, name, tuple(words)) for name, words in evaluations.items()),
    )


def write_list(path: Path, rows: Iterable[Mapping[str, str]]) -> Path:
    """Write a CSV with a header, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def listed_videos(corpus: Corpus) -> set[str]:
    """Names of the videos in the list that its pre-training store is made from; none where the store was given."""
    path = corpus.store.parent / "train.csv"
    if not corpus.preparation:
        return set()
    with path.open(encoding="utf-8", newline="") as file:
        return {row["path"] for row in csv.DictReader(file)}


def _store_job(
    name: str, store: Path, listing: Path, root: Path, motion_inputs: Sequence[str], *, grid: int, flow: str = "dis"
) -> Job:
    words = (listing, "--root", root, "--out", store, "--short-side", 72, "--grid", grid)
    flow_words = () if flow == "dis" else ("--flow", flow)
    prepare = command("prepare", *words, *flow_words, "--motion-inputs", *motion_inputs)
    return Job(name, prepare, store.parent / "jobs" / store.name, store / META_NAME)

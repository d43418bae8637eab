"""Damaged and hostile files: an error that names the file, and nothing worse.

Thousands of cases: python -m tests.fuzz.run.
"""

import json
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from modist_fast.errors import ConfigError
from modist_fast.run.export import load_backbone
from modist_fast.weights.reading import read_weights
from modist_pipelines.errors import DataError
from modist_pipelines.store.reader import Store
from tests.commands.launching import run_words
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.fault


@pytest.mark.slow
def test_some_cases_of_every_kind() -> None:
    done = run_words([sys.executable, "-W", "ignore", "-m", "tests.fuzz.run", "--cases", "10"])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("10 cases") == len(TARGETS)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    TARGETS["index"].make(tmp_path)
    return tmp_path


def with_column(store: Path, name: str, change) -> None:
    path = store / "index.parquet"
    table = pq.read_table(path)
    column = pa.array(change(table[name].to_pylist()), type=table.schema.field(name).type)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), path)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("shard", lambda rows: [2**31 - 1, *rows[1:]], "shard of a video is 2147483647"),  # an array of so many, before
        ("shard", lambda rows: [-1, *rows[1:]], "shard of a video is -1"),
        ("num_frames", lambda rows: [2**31 - 1, *rows[1:]], "rgb_offsets of a video has not as many values"),
        ("num_frames", lambda rows: [0, *rows[1:]], "num_frames of a video is 0"),
        ("rgb_offsets", lambda rows: [[0, 2**40, 80, 120], *rows[1:]], "rgb_offsets of a video do not ascend"),
        ("rgb_offsets", lambda rows: [[-8, 40, 80, 120], *rows[1:]], "rgb_offsets of a video do not ascend"),
        ("edges_crc32", lambda rows: [[], *rows[1:]], "edges_crc32 of a video has not as many values"),
        ("edges_scores", lambda rows: [[1.0, float("nan"), 1.0], *rows[1:]], "edges_scores of a video are not finite"),
        ("width", lambda rows: [0, *rows[1:]], "width of a video is 0"),
    ],
)
def test_an_index_says_nothing_that_cannot_be(name: str, change, words: str, store: Path) -> None:
    with_column(store, name, change)
    with pytest.raises(DataError, match=rf"index\.parquet is damaged: {words}"):
        Store.open(store)


def test_offsets_beyond_the_shard_are_no_read_of_terabytes(store: Path) -> None:
    with_column(store, "rgb_offsets", lambda rows: [[0, 40, 80, 2**40], *rows[1:]])
    with pytest.raises(DataError, match=r"00000\.bin has \d+ bytes, not 1099511627776"):
        Store.open(store)


def test_names_in_an_index_are_text_and_no_paths(store: Path) -> None:
    names = ["../../outside.mp4", "/etc/passwd", "<script>.mp4", "a\nb.mp4"]
    with_column(store, "video", lambda _: names)
    TARGETS["index"].take(store)
    assert list(Store.open(store).videos) == names


@pytest.mark.parametrize(("name", "value"), [("grid", 0), ("fps", "30"), ("fps", None), ("short_side", 1e9)])
def test_a_store_card_of_impossible_values(name: str, value: object, store: Path) -> None:
    card = json.loads((store / "store.json").read_text()) | {name: value}
    (store / "store.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match=rf"store\.json is damaged .*{name} is"):
        Store.open(store)


def test_a_width_that_the_weights_have_not_makes_no_net_of_it(tmp_path: Path) -> None:
    TARGETS["card"].make(tmp_path)
    path = tmp_path / "backbone.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"width": 4096}))  # 100 GB
    with pytest.raises(ConfigError, match=r"does not fit its card \(arch r18, width 4096\)"):
        load_backbone(tmp_path / "backbone.safetensors")


def test_a_few_numbers_that_claim_to_be_many(tmp_path: Path) -> None:
    torch.save({"stem.weight": torch.zeros(1).expand(1 << 40)}, tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match=r"weights\.pt .*stem\.weight claims 4398046511104 bytes, and has 4"):
        read_weights(tmp_path / "weights.pt")


def test_a_packed_part_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as whole:
        whole.writestr("weights/data/0", bytes(1 << 24))
    with pytest.raises(ConfigError, match=r"weights\.pt .*is compressed, which torch\.save never does"):
        read_weights(path)

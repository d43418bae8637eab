"""Training from a store in a bucket."""

import json
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("s3fs", reason="needs the extra [remote]")
pytest.importorskip("moto", reason="needs moto[server]")

from modist_pipelines.remote import access
from tests.commands.launching import run_words
from tests.pipelines.file_server import SECRET, make_bucket, s3_server, upload

STEPS = 20


def losses(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def train(store: object, out: Path, *more: object, **variables: str) -> str:
    words = ["pretrain", "--preset", "demo", "--store", store, "--out", out, "--max-steps", STEPS, "--device", "cpu"]
    ended = run_words([sys.executable, "-m", "modist_fast", *map(str, [*words, *more])], **variables)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.long
def test_a_store_in_a_bucket_trains_as_the_local_one(
    demo_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same losses, bit for bit, without a cache and with one that is smaller than the store."""
    train(demo_store, tmp_path / "local")
    expected = losses(tmp_path / "local")
    assert len(expected) == STEPS
    gigabytes = sum(path.stat().st_size for path in demo_store.glob("shards/*")) / 2e9
    with s3_server(tmp_path / "none") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        access._system.cache_clear()
        url = make_bucket(f"training-{os.getpid()}") + "/store"
        upload(demo_store, url)
        said = train(url, tmp_path / "away")
        said += train(url, tmp_path / "cached", "--cache", tmp_path / "cache", "--cache-gb", gigabytes)
    assert losses(tmp_path / "away") == expected
    assert losses(tmp_path / "cached") == expected
    kept = sum(path.stat().st_size for path in (tmp_path / "cache").glob("??/*"))
    assert 0 < kept <= gigabytes * 1e9
    written = b"".join(path.read_bytes() for out in ("away", "cached") for path in (tmp_path / out).rglob("*.json*"))
    assert SECRET not in said
    assert SECRET.encode() not in written

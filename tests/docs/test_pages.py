"""The commands and programs of the pages for the first hour, run as they stand there."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.commands.launching import HANG, REPOSITORY


def blocks(page: str, language: str) -> list[str]:
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The words of each call of modist on a page."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("modist ")]


def call(words: list[str]) -> None:
    """Run a command in this folder, as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "modist_fast", *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )
    assert done.returncode == 0, done.stderr


def run_python(code: str, page: str, space: dict[str, Any]) -> None:
    exec(compile(code, page, "exec"), space)


@pytest.mark.slow
def test_the_quickstart_and_the_page_about_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With two steps of training; all else as printed. The features page then reads the run that was made."""
    monkeypatch.chdir(tmp_path)
    called = commands("quickstart.md")
    assert [words[0] for words in called] == ["doctor", "make-demo-videos", "prepare", "pretrain", "evaluate", "report"]
    for words in called[1:]:
        call([*words, *(["--max-steps", "2"] * (words[0] == "pretrain"))])
    for name in ("run/clips.png", "run/loss.png", "run/report.html", "run/backbone.safetensors"):
        assert Path(name).stat().st_size > 1000, name
    result = json.loads(Path("knn/result.json").read_text(encoding="utf-8"))
    assert 0 <= result["interval"][0] <= result["top1"] <= result["interval"][1] <= 1
    assert len(result["videos"]) == 9
    quick: dict[str, Any] = {}
    run_python("".join(blocks("quickstart.md", "python")), "quickstart.md", quick)
    assert quick["table"].features.shape == (32, 10, 128)

    Path("RUN").symlink_to("run")
    Path("VIDEOS").mkdir()
    for path in sorted(Path("videos").rglob("*.mp4"))[::11]:
        (Path("VIDEOS") / path.name).write_bytes(path.read_bytes())
    with av.open(str(min(Path("VIDEOS").iterdir()))) as file:
        space: dict[str, Any] = {"frames": np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])}
    capsys.readouterr()
    with torch.no_grad():
        run_python("\n".join(blocks("features.md", "python")), "features.md", space)
    table = space["table"]
    assert capsys.readouterr().out.count("is most like") == len(table.names) == 3
    assert space["features"].shape == (1, 128)
    nearest = [max((n for n in range(3) if n != own), key=lambda n: table_cosine(table, own, n)) for own in range(3)]
    assert space["likeness"].argmax(1).tolist() == nearest
    (words,) = commands("features.md")
    call(words)
    column = pq.read_table("features.parquet")["features"].to_pylist()
    np.testing.assert_allclose(np.array(column).reshape(table.features.shape), table.features, rtol=1e-4, atol=1e-5)


def table_cosine(table: Any, one: int, other: int) -> float:
    a, b = (table.features[video].mean(0, dtype=np.float64) for video in (one, other))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_the_moco_of_the_page_learns_to_tell_images_apart() -> None:
    space: dict[str, Any] = {}
    with torch.random.fork_rng():
        run_python("".join(blocks("own-moco.md", "python")), "own-moco.md", space)
    assert len(space["top1"]) == 150
    assert 0.2 < space["early"] < 0.7
    assert space["late"] > space["early"] + 0.1
    # All is in the bank by now, each key with its image's number.
    assert set(space["bank_ids"].tolist()) <= set(range(64))
    torch.testing.assert_close(space["bank"].float().norm(dim=2), torch.ones(1, 256), rtol=0, atol=2e-3)

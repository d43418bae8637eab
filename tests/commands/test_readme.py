"""What README.md and docs/ promise: the Python runs, links lead somewhere, commands are there."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest
import torch

import modist_fast
from modist_fast.__main__ import COMMANDS, find
from modist_fast.ablation.arms import PAPER_TABLES
from modist_fast.ablation.questions import QUESTIONS, TABLES
from modist_fast.evaluation.finetune.config import RECIPES
from modist_fast.presets import PRESETS
from modist_fast.reproduce.gates import GateName
from tests.commands.launching import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []
    if page.name == "README.md":
        assert len(local) > 10, "the reader of links is blind"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_there(page: Path) -> None:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    called = [re.split(r"(?:^|\s)(?:modist|-m modist_fast) ", line, maxsplit=1) for line in lines]
    words = [parts[1].split() for parts in called if len(parts) == 2 and not parts[1].startswith("-")]
    for found in words:
        assert find(found)[0] in COMMANDS
    if page.name == "README.md":
        assert len(words) == 5, "the reader of commands is blind"


def test_every_name_in_the_tables_of_the_paper_is_one() -> None:
    text = (REPOSITORY / "docs" / "reproduce.md").read_text(encoding="utf-8")
    called = [find(words.split())[0] for words in re.findall(r"`modist ([^`]+)`", text)]
    assert len(called) > 12, "the reader of commands is blind"
    presets = re.findall(r"--preset (\S+?)[`\s]", text)
    assert set(presets) <= {*PRESETS, *RECIPES}
    assert set(re.findall(r"--table (\w+)", text)) == set(PAPER_TABLES)
    assert set(re.findall(r"--gate (\S+)", text)) == set(get_args(GateName))


def test_the_evidence_names_every_question() -> None:
    text = (REPOSITORY / "docs" / "evidence.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--table (\w+)", text))
    assert set(QUESTIONS) <= named <= set(TABLES)


def test_readme_is_short() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").split()) <= 900


@pytest.mark.slow
def test_the_python_of_the_readme_runs(demo_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = modist_fast.presets.demo(demo_store, tmp_path / "RUN")
    short = replace(base, device="cpu", precision="fp32", max_steps=2, batch_size=8, group_size=4)
    modist_fast.pretrain(replace(short, model=replace(base.model, visual_width=8)), progress=False)
    videos = tmp_path / "VIDEOS"
    videos.mkdir()
    for path in sorted((demo_store.parent / "videos").rglob("*.mp4"))[:2]:
        (videos / path.name).write_bytes(path.read_bytes())
    with av.open(str(next(videos.iterdir()))) as file:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(PAGES[0], "python")
    said: dict[str, Any] = {"frames": frames}
    with torch.no_grad():
        exec(compile(code, "README.md", "exec"), said)
    assert said["features"].shape == (1, 64)
    assert said["table"].names == sorted(path.name for path in videos.iterdir())
    # The clip and the features of a folder are of the same videos, by the same net.
    assert said["table"].features.shape == (2, 10, 64)

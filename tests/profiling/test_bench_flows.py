"""The benchmark of flows: its figures against loops, and the whole table of made-up videos."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modist_pipelines.video.write import write_video
from modist_profiling.data.flows import Prepared, compared, correlation, equal_threshold
from tests.pipelines.made_videos import moving_pictures

REPOSITORY = Path(__file__).resolve().parents[2]


def made(scores: np.ndarray, seed: int) -> Prepared:
    maps = np.random.default_rng(seed).integers(0, 256, (len(scores), 24, 32), np.uint8)
    return Prepared(scores, list(maps), 0, {})


def test_agreement():
    rng = np.random.default_rng(0)
    scores = [rng.random(8) / 4 + 0.1 * video for video in range(3)]
    found = [made(0.5 * one + 0.01 * rng.standard_normal(8), video) for video, one in enumerate(scores)]
    against = [made(one, video) for video, one in enumerate(scores)]
    agreement = compared(found, against)
    means = [np.array([one.scores.mean() for one in videos]) for videos in (found, against)]
    assert agreement["r over videos"] == pytest.approx(statistics.correlation(means[0].tolist(), means[1].tolist()))
    times = [
        statistics.correlation(one.scores.tolist(), other.scores.tolist())
        for one, other in zip(found, against, strict=True)
    ]
    assert agreement["r over time"] == pytest.approx(np.mean(times))
    assert agreement["r of maps"] == pytest.approx(1.0)  # the same pixels
    assert agreement["score / DIS"] == pytest.approx(np.mean(means[0]) / np.mean(means[1]))
    others = compared([made(one, video + 10) for video, one in enumerate(scores)], against)
    assert abs(others["r of maps"]) < 0.3
    assert np.isnan(correlation(np.ones(5), np.arange(5.0)))


def test_the_threshold_that_rejects_as_many():
    theirs, ours = np.linspace(0, 0.1, 101), np.linspace(0, 0.3, 101)
    threshold, share = equal_threshold([made(ours, 0)], [made(theirs, 0)])
    assert share == pytest.approx(21 / 101)
    assert (ours <= threshold).mean() == pytest.approx(share, abs=0.011)


@pytest.mark.slow
def test_whole_table_runs(tmp_path):
    for folder in ("one", "other"):
        for number in range(3):
            pictures = moving_pictures(30, 1 + number, height=48, width=64, seed=number)
            write_video(tmp_path / folder / f"{number}.avi", pictures, 30, codec="mpeg4")
    write_video(tmp_path / "one" / "none.avi", moving_pictures(30, 1), 30, codec="mjpeg", options={"strict": "-1"})
    command = [sys.executable, "profiling/bench_flows.py", tmp_path / "one", tmp_path / "other", "--short-side", "48"]
    report = tmp_path / "report.json"
    done = subprocess.run([*command, "--json", report], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "left out: one/none.avi: no_motion_vectors" in done.stdout
    content = json.loads(report.read_text())
    rows = {(row["table"].partition(":")[0], row["name"]): row for row in content["rows"]}
    assert set(rows) == {(folder, flow) for folder in ("one", "other", "all") for flow in ("dis", "codec")}
    assert "6 videos, 48 stored frames" in rows["all", "codec"]["table"]
    assert set(rows["all", "codec"]["cells"]) >= {"r over videos", "r of maps", "decode ms", "KB a map"}
    assert {"codec, r over videos", "codec, threshold of that share"} <= set(content["ratios"])

"""The page about a run: its numbers against planted runs by hand, damaged files, hostile names, long runs."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from planted_run import CONFIG, VERDICT, plant, row

from modist_profiling.report import clips
from modist_profiling.report.binning import bars, bin_column
from modist_profiling.report.page import page
from modist_profiling.report.runs import ReportError, mean_phases, read_run

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
REPORT = REPOSITORY / "profiling" / "report.py"


class Reader(HTMLParser):
    """What a page says: its key figures, the rows of its tables, its tags, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.figures: dict[str, list[str]] = {}
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._into: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "tr":
            self.rows.append([])
        name = found.get("data-figure")
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._into = [self.rows[-1]]
        elif name is not None:
            self.figures.setdefault(name, []).append("")
            self._into = [self.figures[name]]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") or (self._into and tag == "span" and self._into[0] in self.figures.values()):
            self._into = []

    def handle_data(self, data: str) -> None:
        self.text += data
        for values in self._into:
            values[-1] += data

    def row(self, name: str) -> list[str]:
        [found] = [cells[1:] for cells in self.rows if cells[0] == name]
        return found


def read(*folders: Path) -> Reader:
    return Reader(page([read_run(folder) for folder in folders]))


def test_figures_by_hand(tmp_path: Path):
    found = read(plant(tmp_path / "run"))
    figures = {name: values[0] for name, values in found.figures.items()}
    assert figures["samples_per_s"] == "80", "32 in 0.4 s"
    assert figures["step_ms"] == "400"
    assert figures["data_wait"] == "10"
    assert figures["peak_share"] == "12.5", "1 GFLOP in 0.4 s of 20 GFLOP/s"
    # The last tenth of 43 steps are 40 to 43, so at 41.5 / 43 of the way; the first are 1 to 4.
    assert figures["top1_visual"] == "96.5"
    assert figures["loss"] == "12.3"
    assert "last tenth; 5.81 in the first" in found.text
    assert figures["masked_negatives"] == "25"
    assert figures["rejected_windows"] == "12.5"
    assert figures["amplification"] == "1.5"
    assert figures["host_mb"] == "1,001", "the larger of the ranks'"
    assert figures["videos_damaged"] == "1"
    assert figures["minutes"] == "0.527", "4 × 4 s + 39 × 0.4 s"
    assert "device_mb" not in figures
    assert found.row("backward") == ["150", "37.5 %"]
    assert found.row("keys") == ["70", "17.5 %"]
    assert found.row("gather") == ["20", "5.0 %"]
    assert found.row("other") == ["10", "2.5 %"]
    assert found.row("checkpoint") == ["0", "0.0 %"]
    assert found.row("power_w") == ["250"]
    assert found.row("torch") == ["2.14.1"]
    assert found.row("--objective.bank-size") == ["512"]
    reason = VERDICT.partition(": ")[2]
    assert "read-bound" in found.text
    assert reason in found.text
    # Without waiting for each other: 0.37 s of rank 0, 0.35 s of rank 1.
    assert "rank 0 is the slowest, 5.7 % above the mean of the others" in found.text
    html = page([read_run(tmp_path / "run")])
    bars = html.partition('<div class="ranks">')[2].partition("</figure>")[0]
    assert re.findall(r"<b( class=marked)?>(rank \d)</b>", bars) == [(" class=marked", "rank 0"), ("", "rank 1")]
    widths = [sum(map(float, re.findall(r"width:([\d.]+)%", bar))) for bar in bars.split("<b")[1:]]
    assert widths == pytest.approx([100, 100], abs=0.1), "both wait for each other, so their steps are as long"
    assert 'title="backward: ' in bars


def test_a_plot_is_at_the_pixels_of_its_values(tmp_path: Path):
    found = read(plant(tmp_path / "run"))
    [plot] = [
        attrs for tag, attrs in found.tags if tag == "svg" and (attrs.get("aria-label") or "").startswith("Top-1")
    ]
    hover = json.loads(plot["data-hover"] or "")
    assert hover["at"][0] == "step 1"
    # Steps 1 to 43 lie between 54 and 590.
    assert hover["x"][0] == 54
    assert hover["x"][22 - 1] == pytest.approx((54 + 590) / 2)
    assert [line[0] for line in hover["rows"]] == ["visual", "motion", "visual → motion", "motion → visual"]
    assert hover["rows"][0][2][42] == "100"
    start = found.tags.index(("svg", plot))
    lines = [attrs["d"] or "" for tag, attrs in found.tags[start:] if tag == "path" and attrs.get("class") == "line"]
    x, y = (float(word) for word in lines[0].rpartition("L")[2].split())
    # The axis is 0 to 105 % from 196 up to 12.
    assert (x, y) == (590, pytest.approx(196 - 100 / 105 * (196 - 12), abs=0.06))


def test_a_run_that_goes_on_has_the_same_figures_but_no_verdict(tmp_path: Path):
    run = plant(tmp_path / "run")
    ended = read(run)
    (run / "budget.json").unlink()
    going_on = read(run)
    assert "No verdict yet" in going_on.text
    assert "budget.json: a run writes it when it ends" in going_on.text
    for name in ("samples_per_s", "step_ms", "data_wait"):
        assert going_on.figures[name] == ended.figures[name]
    assert going_on.row("gather") == ended.row("gather")
    assert "rejected_windows" not in going_on.figures
    assert "share of rejected motion windows is not known" in going_on.text
    (run / "budget.jsonl").unlink()
    alone = read(run)
    assert alone.figures["step_ms"] == ["400"]
    assert alone.row("gather") == ["10", "2.5 %"], "rank 0's own"
    assert "no ranks to compare" in alone.text


def test_two_runs_share_axes_and_show_what_differs(tmp_path: Path):
    first = plant(tmp_path / "run")
    second = plant(tmp_path / "other" / "run", num_steps=83, seconds=1.0, seed=1)
    found = read(first, second)
    assert found.figures["samples_per_s"] == ["80", "32"]
    assert "B / A = 0.40" in found.text
    assert found.row("backward") == ["150", "37.5 %", "150", "15.0 %", "0"]
    assert found.row("other") == ["10", "2.5 %", "610", "61.0 %", "600"]
    assert found.row("--seed") == ["0", "1"]
    assert found.row("--batch-size") == ["32"], "the same in both: told once, folded away"
    assert found.rows.count(["", "A: run", "B: run"]) == 2, "of one name, and yet apart"
    starts = [index for index, (tag, _) in enumerate(found.tags) if tag == "svg"]
    compared = 0
    for at in starts:
        label = found.tags[at][1].get("aria-label")
        pair = [start for start in starts if found.tags[start][1].get("aria-label") == label]
        if label == "Own work, without waiting for other ranks":
            continue  # of each run by itself
        compared += 1
        texts = [_ticks(found.tags, start) for start in pair]
        assert len(texts) == 2
        assert texts[0] == texts[1], label
    assert compared >= 30


def _ticks(tags: list[tuple[str, dict[str, str | None]]], start: int) -> list[tuple[str | None, str | None]]:
    found = []
    for tag, attrs in tags[start + 1 :]:
        if tag == "svg":
            break
        if tag == "text" and attrs.get("class") == "tick":
            found.append((attrs["x"], attrs["y"]))
    return found


@pytest.mark.fault
def test_names_and_options_cannot_write_html(tmp_path: Path):
    evil = "<script>alert('x')</script>\"&"
    run = plant(tmp_path / "run", preset=evil)
    run = run.rename(tmp_path / "<img src=x onerror=alert(1)>")
    (run / "environment.json").write_text(json.dumps({"cpu": evil, evil: 1}))
    budget = json.loads((run / "budget.json").read_text())
    budget["verdict"] = f"{evil}: {evil} --{evil}"
    budget["flops"]["peak_source"] = evil
    budget["gpu"] = {evil: 1.0}
    (run / "budget.json").write_text(json.dumps(budget))
    for runs in ((run,), (run, run)):
        found = read(*runs)
        assert sum(tag == "script" for tag, _ in found.tags) == 1, "the page's own"
        assert {attrs["class"] for tag, attrs in found.tags if tag == "img"} == {"sheet"}
        assert not any(name.startswith("on") for _, attrs in found.tags for name in attrs)
        assert found.text.count(evil) >= 6


def test_the_page_loads_nothing(tmp_path: Path):
    found = read(plant(tmp_path / "run"))
    sources = [attrs[name] or "" for _, attrs in found.tags for name in ("src", "href") if name in attrs]
    assert len(sources) > 5
    assert all(re.match("#|data:", source) for source in sources)
    whole = page([read_run(tmp_path / "run")])
    assert "@import" not in whole
    assert "url(" not in whole
    assert "//" not in re.sub(r"^\s*// .*$", "", re.sub(r"base64,[^\"]*", "", whole), flags=re.MULTILINE)


def test_a_large_contact_sheet_is_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = read_run(plant(tmp_path / "run"))
    assert "data:image/png" in clips.contact_sheet(run)
    monkeypatch.setattr(clips, "MAX_PNG_BYTES", 50)
    smaller = clips.contact_sheet(run)
    assert "data:image/webp" in smaller
    assert "the original is clips.png" in smaller


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", None, r"metrics.jsonl does not exist.* Give the --out"),
        ("metrics.jsonl", b'{"step": 1, "sec', r"metrics.jsonl holds no whole line yet"),
        (
            "metrics.jsonl",
            b'{"step": 1, "seconds": 1, "samples_per_s": 1}\n{"st\n',
            r"metrics.jsonl is damaged in line 2",
        ),
        ("metrics.jsonl", b"[1]\n", r"metrics.jsonl is damaged in line 1: no JSON object with a step"),
        ("metrics.jsonl", b'{"step": 1}\n', r"metrics.jsonl is damaged in line 1: no seconds"),
        ("metrics.jsonl", b'\xff\xfe\x00"\n', r"metrics.jsonl is damaged in line 1"),
        ("budget.jsonl", b'{"step": 3, "num_steps": 3}\n', r"budget.jsonl is damaged in line 1: no seconds"),
        ("budget.json", b"{", r"budget.json is damaged: .*line 1"),
        ("config.json", b"[]", r"config.json holds no JSON object"),
        ("environment.json", b"\xff", r"environment.json is damaged"),
        ("clips.png", b"\x89PNG\r\n\x1a\n half", r"clips.png is damaged"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, content: bytes | None, message: str):
    run = plant(tmp_path / "run")
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    with pytest.raises(ReportError, match=message):
        read_run(run)


def test_a_cut_last_line_and_absent_files_do_not_matter(tmp_path: Path):
    run = plant(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 44, "seco')
    for name in ("budget.json", "budget.jsonl", "config.json", "environment.json", "clips.png"):
        (run / name).unlink()
    found = read(run)
    assert "steps 1 to 43 of metrics.jsonl" in found.text
    for name in ("budget.json", "budget.jsonl", "config.json", "environment.json", "clips.png"):
        assert f"{name}: " in found.text


def test_a_long_run_is_no_larger_a_page(tmp_path: Path):
    sizes = {}
    for num_steps in (2_500, 25_000):
        run = plant(tmp_path / str(num_steps))
        head, _, tail = json.dumps(row(1000, 4000)).partition('"step": 1000')
        with (run / "metrics.jsonl").open("w") as file:
            file.writelines(f'{head}"step": {step}{tail}\n' for step in range(1, num_steps + 1))
        window = (run / "budget.jsonl").read_text().splitlines()[1]
        with (run / "budget.jsonl").open("w") as file:
            file.writelines(window.replace("23", str(step), 1) + "\n" for step in range(23, num_steps + 1, 20))
        html = page([read_run(run)])
        sizes[num_steps] = len(html.encode())
        assert f"steps 1 to {num_steps:,} of metrics.jsonl" in Reader(html).text
    assert sizes[2_500] < 1e6
    assert sizes[25_000] < 1.1 * sizes[2_500]


def test_bins_against_a_loop():
    generator = np.random.default_rng(0)
    step = np.arange(5.0, 1005.0)
    rate, seconds = generator.random(1000), generator.random(1000)
    rate[generator.random(1000) < 0.2] = np.nan
    rate[100:110] = np.nan  # a whole bin
    found = bin_column({"step": step, "rate": rate, "seconds": seconds}, "rate", "seconds", max_bins=100)
    assert found is not None
    for index in range(100):
        part = [(rate[row], seconds[row]) for row in range(10 * index, 10 * index + 10) if np.isfinite(rate[row])]
        assert found.step[index] == step[10 * index : 10 * index + 10].mean()
        if not part:
            assert np.isnan([found.mean[index], found.low[index], found.high[index]]).all()
            continue
        mean = sum(value * weight for value, weight in part) / sum(weight for _, weight in part)
        assert found.mean[index] == pytest.approx(mean)
        assert (found.low[index], found.high[index]) == (min(part)[0], max(part)[0])
    assert bin_column({"step": step, "rate": np.full(1000, np.nan)}, "rate") is None


def test_bars_of_a_run_that_went_on_with_other_ranks():
    one = {"step": 20, "num_steps": 20, "seconds": [8.0], "phases": {"keys": [4.0]}}
    two = {"step": 40, "num_steps": 20, "seconds": [2.0, 4.0], "phases": {"keys": [1.0, 2.0]}}
    found = bars([one, two])
    assert [(bar.first, bar.last, bar.seconds, bar.phases["keys"]) for bar in found] == [
        (1, 20, [0.4], [0.2]),
        (21, 40, [0.1, 0.2], [0.05, 0.1]),
    ]
    # Of both, what the last number of ranks did.
    [bar] = bars([one, two], max_bars=1)
    assert (bar.first, bar.seconds) == (21, [0.1, 0.2])
    assert mean_phases([one, two])["keys"] == {
        "seconds": pytest.approx(0.075),
        "share": pytest.approx(0.5),
        "by_rank": [0.05, 0.1],
    }


def test_command_line(tmp_path: Path):
    run, other = plant(tmp_path / "a"), plant(tmp_path / "b")
    assert _report(run).returncode == 0
    assert "read-bound" in (run / "report.html").read_text(encoding="utf-8")
    assert _report(run, other, "--out", tmp_path / "two.html").returncode == 0
    assert "B: b" in (tmp_path / "two.html").read_text(encoding="utf-8")
    (other / "config.json").write_text("{}}")
    done = _report(run, other)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    words = " ".join(done.stderr.split())
    assert words.startswith(f"error: {other / 'config.json'} is damaged: Extra data: line 1 column 3")


def _report(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPORT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)


def test_the_wheel_has_every_package_and_the_pages_files(tmp_path: Path):
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=1200)
    built = {path.relative_to(tmp_path / "lib").as_posix() for path in (tmp_path / "lib").rglob("*.*")}
    for package in (REPOSITORY / "profiling" / "modist_profiling", REPOSITORY / "modist_fast"):
        for path in package.rglob("*"):
            if path.suffix in (".py", ".css", ".js"):
                assert path.relative_to(package.parent).as_posix() in built


def test_config_of_the_planted_run_is_a_runs(tmp_path: Path):
    """The options that the page reads by name exist."""
    from modist_fast.presets import PRESETS
    from modist_fast.run.checkpoint import plain_config

    real = plain_config(PRESETS["demo"](Path("store"), Path("out")))
    for name, value in CONFIG.items():
        assert name in real
        if isinstance(value, dict):
            assert value.keys() <= real[name].keys()

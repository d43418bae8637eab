"""The page in headless Chromium: it draws every plot in its colours, fits its window, and its script runs."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from planted_run import plant

from modist_profiling.report.page import page
from modist_profiling.report.runs import read_run

pytestmark = pytest.mark.slow

HEIGHT = 10_000
PHONE = 390
# Runs in the page before and after its own script; the frame around it is as wide as the window to be tried.
BEFORE = "<script>var problems = []; addEventListener('error', (event) => problems.push(event.message));</script>"
AFTER = """<script>
addEventListener("load", () => {
  const sides = ({left, top, right, bottom}) => [left, top, right, bottom];
  const box = (element) => sides(element.getBoundingClientRect());
  const shown = (texts) => [...texts].map((text) => ({text: text.textContent, box: box(text)}));
  const plots = [...document.querySelectorAll("svg.plot")].map((plot) => ({
    name: plot.getAttribute("aria-label"),
    box: box(plot),
    lines: [...plot.querySelectorAll(".line")].map((line) => getComputedStyle(line).stroke),
    fills: [...new Set([...plot.querySelectorAll("path[style^=fill]:not(.band)")]
      .map((part) => getComputedStyle(part).fill))],
    ticks: shown(plot.querySelectorAll("text:not(.guide-label)")),
  }));
  const plot = document.querySelector("svg[data-hover]"), tip = document.getElementById("tip");
  const [left, top, right, bottom] = box(plot);
  const at = {clientX: (left + right) / 2, clientY: (top + bottom) / 2, bubbles: true};
  plot.dispatchEvent(new PointerEvent("pointermove", at));
  const hovered = {text: tip.textContent, hidden: tip.hidden, box: box(tip)};
  plot.dispatchEvent(new PointerEvent("pointerleave", at));
  parent.document.getElementById("probe").textContent = JSON.stringify({
    problems, plots, hovered, left: tip.hidden,
    width: document.documentElement.clientWidth,
    content: document.documentElement.scrollWidth,
    pictures: [...document.images].map((image) => image.naturalWidth),
    background: getComputedStyle(document.body).backgroundColor,
  });
});
</script>"""


@dataclass(frozen=True)
class Shown:
    """A page as a browser showed it."""

    probe: dict[str, Any]
    pixels: np.ndarray
    """(H, W, 3) uint8."""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page([read_run(plant(tmp_path_factory.mktemp("runs") / "run"))])


def show(browser: str, folder: Path, html: str, width: int, dark: bool = False) -> Shown:
    """Open the page in a frame of some width: windows of a browser cannot be as narrow as a phone."""
    probed = html.replace("<head>", "<head>" + BEFORE, 1).replace("</body>", AFTER + "</body>", 1)
    frame = f'<iframe style="border:0;width:{width}px;height:{HEIGHT}px" srcdoc="{escape(probed)}"></iframe>'
    opened = folder / "frame.html"
    opened.write_text(
        f'<!doctype html><meta charset="utf-8"><body style="margin:0"><pre id="probe" hidden></pre>{frame}',
        encoding="utf-8",
    )
    picture = folder / "page.png"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += ["--force-color-profile=srgb", f"--user-data-dir={folder / 'profile'}"]
    command += [f"--window-size={max(width, 600)},{HEIGHT}"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    dom = _run([*command, "--dump-dom", opened.as_uri()])
    found = re.search(r'<pre id="probe" hidden="">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None, dom[-2000:]
    _run([*command, f"--screenshot={picture}", opened.as_uri()])
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))[:, :width]
    return Shown(json.loads(unescape(found[1])), pixels)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def faults(shown: Shown) -> list[str]:
    """All that is wrong with what the browser showed."""
    probe = shown.probe
    found = [f"script: {problem}" for problem in probe["problems"]]
    if probe["content"] > probe["width"]:
        found.append(f"the page is {probe['content']} pixels wide, its window {probe['width']}")
    if probe["hovered"]["hidden"] or not probe["left"] or "backward" not in probe["hovered"]["text"]:
        found.append(f"hover: {probe['hovered']}")
    if not _within(probe["hovered"]["box"], probe["width"]):
        found.append(f"hover is outside of the window: {probe['hovered']['box']}")
    if probe["pictures"] != [90]:
        found.append(f"contact sheet: {probe['pictures']}")
    if len(probe["plots"]) < 15:
        found.append(f"{len(probe['plots'])} plots")
    for plot in probe["plots"]:
        found += [f"{plot['name']}: {fault}" for fault in _plot_faults(plot, shown)]
    return found


def _plot_faults(plot: dict[str, Any], shown: Shown) -> list[str]:
    left, top, right, bottom = plot["box"]
    if right - left < 250 or bottom - top < 40:
        return [f"is {right - left:.0f} × {bottom - top:.0f}"]
    found = []
    if not plot["lines"] and not plot["fills"]:
        found.append("has nothing in it")
    area = shown.pixels[int(top) : int(bottom) + 1, int(left) : int(right) + 1].astype(int)
    for colour in {*plot["lines"], *plot["fills"]}:
        numbers = re.findall(r"\d+", colour)
        drawn = 0 if len(numbers) != 3 else (abs(area - [int(part) for part in numbers]).max(axis=2) <= 10).sum()
        if drawn < 20:
            found.append(f"{drawn} pixels of {colour}")
    ticks = plot["ticks"]
    for index, one in enumerate(ticks):
        if not _within(one["box"], shown.probe["width"]):
            found.append(f"{one['text']} is cut off")
        if one["box"][3] - one["box"][1] < 9:
            found.append(f"{one['text']} is too small to read")
        for other in ticks[:index]:
            if _overlap(one["box"], other["box"]):
                found.append(f"{one['text']} lies on {other['text']}")
    return found


def _within(box: list[float], width: float) -> bool:
    return box[0] >= 0 and box[2] <= width


def _overlap(one: list[float], other: list[float]) -> bool:
    # Boxes of text have a little air above and below.
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide > 0 and high > 3


@pytest.mark.parametrize(("width", "dark"), [(1300, False), (PHONE, False), (PHONE, True)])
def test_the_page_is_whole(browser: str, html: str, tmp_path: Path, width: int, dark: bool):
    shown = show(browser, tmp_path, html, width, dark)
    assert faults(shown) == []
    brightness = shown.pixels.mean(axis=2)
    assert brightness.std() > 5, "a blank page"
    assert (np.median(brightness) < 60) == dark


def test_two_runs_stand_side_by_side(browser: str, tmp_path: Path):
    runs = [read_run(plant(tmp_path / name, num_steps)) for name, num_steps in (("a", 643), ("b", 1043))]
    shown = show(browser, tmp_path, page(runs), 1300)
    assert [fault for fault in faults(shown) if not fault.startswith("contact sheet")] == []
    assert shown.probe["pictures"] == [90, 90]
    first, second = (plot["box"] for plot in shown.probe["plots"][:2])
    assert first[2] < second[0], "not beside each other"
    assert (first[1], first[3]) == (second[1], second[3])


PLANTED = {
    "script: Uncaught ReferenceError": ('const tip = document.getElementById("tip");', "const tip = nowhere;"),
    "hover: ": ("tip.hidden = false;", ""),
    "pixels of": ("--aqua:", "--water:"),
    "the page is 8": ("</main>", '<div style="width:800px">wide</div></main>'),
    "too small to read": (".plot text { font-size: 12px", ".plot text { font-size: 12px !important"),
    "lies on": ('text-anchor="end">step<', 'text-anchor="end" dy="-19" dx="-26">step<'),
    "contact sheet": ("data:image/png;base64,", "data:image/png;base64,AA"),
}


def test_planted_faults_are_found(browser: str, html: str, tmp_path: Path):
    for old, new in PLANTED.values():
        assert old in html
        html = html.replace(old, new)
    found = faults(show(browser, tmp_path, html, PHONE))
    assert [fault for fault in PLANTED if not any(fault in one for one in found)] == []

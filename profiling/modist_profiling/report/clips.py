"""What the nets saw: how many motion windows the threshold took away, and the contact sheet."""

import base64
import io
import math
from html import escape

from PIL import Image

from modist_profiling.report.runs import Run

# A sheet of the paper's clips is tens of MB as PNG: more than a page should weigh.
MAX_PNG_BYTES = 600_000
_MAX_WIDTH = 1200


def rejected_sentence(run: Run) -> str:
    """Share of the motion windows that training never takes, with a bar; what is known where there is no figure."""
    clips = run.config.get("clips", {})
    threshold = clips.get("motion_threshold", "γ")
    if run.config.get("objective", {}).get("motion") is False:
        return "<p>No motion pathway, so no motion windows to reject.</p>"
    share = run.budget.get("rejected_windows")
    if share is None or not math.isfinite(share):
        return "<p>The share of rejected motion windows is not known: it is in budget.json, which a run ends with.</p>"
    return (
        f"<p><b>{100 * share:.1f} %</b> of the motion windows are rejected: their mean is not above "
        f'γ = {escape(str(threshold))} (<span class="option">--clips.motion-threshold</span>).</p>'
        f'<div class="meter" role="img" aria-label="{100 * share:.1f} % rejected">'
        f'<span style="width:{100 * share:.2f}%"></span></div>'
    )


def contact_sheet(run: Run) -> str:
    """The sheet as an image within the page; "" where the run has none."""
    if run.clips is None:
        return ""
    with Image.open(io.BytesIO(run.clips)) as image:
        kind, data, note = "png", run.clips, ""
        if len(data) > MAX_PNG_BYTES:
            kind, data = "webp", _smaller(image)
            note = f", here at most {_MAX_WIDTH} pixels wide and compressed; the original is clips.png"
        width, height = image.size
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return (
        f'<img class="sheet" alt="Contact sheet of {escape(run.name)}" width="{width}" height="{height}" '
        f'src="{source}"><p class="note">Query and key clip of each pathway, as the nets saw them{note}.</p>'
    )


def _smaller(image: Image.Image) -> bytes:
    picture = image.convert("RGB")
    picture.thumbnail((_MAX_WIDTH, 8 * _MAX_WIDTH))
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=85)
    return written.getvalue()

"""What a run was asked to do, and on what it ran; for two runs, what differs."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from modist_fast.run.options import flat, spelled
from modist_profiling.report.runs import Run

_ABSENT = "–"


def environment_table(runs: Sequence[Run]) -> str:
    """Hardware and versions; of two runs, what differs is marked. "" where no run has told."""
    return _table(runs, _aligned([dict(flat(_without_prefix(run.environment))) for run in runs]))


def _without_prefix(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Versions by the names of their packages alone."""
    facts = {name: value for name, value in environment.items() if name != "versions"}
    return facts | environment.get("versions", {})


def options_tables(runs: Sequence[Run]) -> str:
    """All options of a run, folded away; of two runs, first those that differ. "" where no run has told."""
    found = _aligned([{f"--{name}": value for name, value in spelled(run.config).items()} for run in runs])
    if not found:
        return ""
    if len(runs) == 1:
        return _folded(f"All {len(found)} options", _table(runs, found))
    differ = {name: values for name, values in found.items() if _differs(values)}
    same = {name: values[:1] for name, values in found.items() if name not in differ}
    head = _table(runs, differ) if differ else "<p>All options are the same.</p>"
    return head + (_folded(f"{len(same)} options are the same in both", _table(runs[:1], same)) if same else "")


def _aligned(documents: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    names = dict.fromkeys(name for document in documents for name in document)
    return {name: [_text(document.get(name, _ABSENT)) for document in documents] for name in names}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _differs(values: Sequence[str]) -> bool:
    return len(set(values)) > 1


def _table(runs: Sequence[Run], rows: Mapping[str, Sequence[str]]) -> str:
    if not rows:
        return ""
    two = any(len(values) > 1 for values in rows.values())
    head = f"<tr><th></th>{''.join(f'<th>{escape(run.name)}</th>' for run in runs)}</tr>" if two else ""
    body = "".join(
        f"<tr{' class=differs' if _differs(values) else ''}><th>{escape(name)}</th>"
        f"{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>"
        for name, values in rows.items()
    )
    return f'<table class="words">{head}{body}</table>'


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"

"""docs/errors.md when the site is built: every error text that the sources hold, each with what it says to do.

The texts are read out of the code, so the page cannot lack one. `tests/docs/test_error_texts.py` holds each of
them to a cure.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("modist_fast", "pipelines/modist_pipelines", "profiling/modist_profiling", "kernels/modist_kernels")
ROOTS = {"ConfigError", "DataError", "ReportError", "_print_once"}
"""What a command prints as one paragraph, with the classes that are derived from these; and what prints it."""
REASONS = {"VideoError", "DamagedError"}
"""Of one video: a row of the quarantine or a line of the log, and nothing to type anew."""
INNER = {"modist_fast/run/whole_state.py"}
"""Whose words are always put into those of another error."""
PAGE, MARK = "errors.md", "<!-- texts -->"
HOLE = "…"
_DO = (
    "Add|Ask|Begin|Bring|Build|Call|Change|Choose|Copy|Divide|Download|Export|Fill|Give|Go|Install|Keep|Leave|"
    "Let|Look|Lower|Make|Mend|Move|Name|Pass|Pick|Point|Prepare|Put|Raise|Remove|Rename|Repeat|"
    "Resume|Run|Save|Set|Shorten|Start|Take|Train|Try|Use|Verify|Wait|Write|Convert"
)
_CLAUSE = re.compile(r"(?<=[.?!;:,]) +|(?<=\)) +|(?<=…) +(?=[A-Z])")
_CURE = re.compile(rf"(?:or |else |so |then |please |where )?(?:{_DO})\b", re.IGNORECASE)
_RULE = re.compile(r"must|at least|at most|\bone of|there are|wanted|needs|from \S+ to", re.IGNORECASE)


@dataclass(frozen=True)
class Text:
    """One error: where it is raised, and its words, `…` for each part that is known when it happens."""

    path: Path
    line: int
    kind: str
    words: str

    @property
    def room(self) -> str:
        """The folder, without that in which its package is nested."""
        parts = self.path.parent.relative_to(REPOSITORY).parts
        return "/".join(parts if parts[0].startswith("modist") else parts[1:])

    @property
    def split(self) -> tuple[str, str]:
        """What is wrong, and what to do: from the first clause on that tells somebody to do something."""
        places = [0, *(found.end() for found in _CLAUSE.finditer(self.words))]
        for place in places:
            if _CURE.match(self.words, place):
                return self.words[:place].rstrip(" ;:,"), self.words[place:]
        rule = next((place for place in reversed(places) if _RULE.search(self.words, place)), None)
        return (self.words, "") if rule is None else (self.words[:rule].rstrip(" ;:,"), self.words[rule:])


@cache
def texts() -> list[Text]:
    """Every error that a user can meet, in the order of the files."""
    trees = _trees()
    kinds, names = _kinds(trees) - REASONS, _names(trees)
    shown = {path: tree for path, tree in trees.items() if path.relative_to(REPOSITORY).as_posix() not in INNER}
    return [text for path, tree in shown.items() for text in _of_module(path, tree, kinds, names)]


def handed_on() -> set[str]:
    """The code of all errors that have no text of their own."""
    known = {(text.path, text.line) for text in texts()}
    kinds = _kinds(_trees()) - REASONS
    calls = [(path, call) for path, tree in _trees().items() for call in _calls(tree, kinds)]
    return {ast.unparse(call) for path, call in calls if (path, call.lineno) not in known}


@cache
def _trees() -> dict[Path, ast.Module]:
    paths = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def _kinds(trees: dict[Path, ast.Module]) -> set[str]:
    """`ROOTS` and every class below them."""
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    kinds = set(ROOTS)
    while more := {node.name for node in classes if {ast.unparse(base) for base in node.bases} & kinds} - kinds:
        kinds |= more
    return kinds


def _names(trees: dict[Path, ast.Module]) -> dict[str, str]:
    """Texts that modules hold by name, and those that functions give, by the functions' names with brackets.

    A name that several modules have is left out: it is each module's own.
    """
    defined = Counter(
        f"{node.name}()" for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    )
    found = [(name, words) for tree in trees.values() for name, words in _own_names(tree).items()]
    times = Counter(name for name, _ in found)
    return {name: words for name, words in found if times[name] == 1 and defined[name] < 2}


def _own_names(tree: ast.Module) -> dict[str, str]:
    names = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str() as text)) if " " in text:
                names[name] = text
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Return) and node.value and _is_sentence(words := _words(node.value, names)):
                    names.setdefault(f"{function.name}()", words)
    return names


def _is_sentence(words: str) -> bool:
    return len(words.replace(HOLE, " ").split()) > 3


def _calls(tree: ast.AST, kinds: set[str]) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
            yield node


def _of_module(path: Path, tree: ast.Module, kinds: set[str], shared: dict[str, str]) -> Iterator[Text]:
    calls = list(_calls(tree, kinds))
    if not calls:
        return
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    shared = shared | _own_names(tree)
    for call in calls:
        around = [node for node in functions if node.lineno <= call.lineno <= (node.end_lineno or 0)]
        names = shared | {name: words for node in around for name, words in _locals(node, shared).items()}
        for argument in call.args[:1]:
            # What is no text hands on the words of another error, which stands where it was made.
            words = re.sub(r"\s+", " ", _words(argument, names)).strip()
            if len(words.replace(HOLE, " ").split()) > 1:
                yield Text(path, call.lineno, ast.unparse(call.func), words)


def _locals(function: ast.FunctionDef, names: dict[str, str]) -> dict[str, str]:
    """Texts that a function gives a name before it raises them."""
    found = {}
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) | ast.NamedExpr(ast.Name(id=name), value):
                if _is_sentence(words := _words(value, names)):
                    found[name] = words
    return found


def _words(node: ast.expr, names: dict[str, str]) -> str:
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_words(part, names) for part in parts)
        case ast.FormattedValue(value=value):
            return _words(value, names)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _words(left, names) + _words(right, names)
        case ast.IfExp(body=body, orelse=other):
            return _words(body, names) or _words(other, names)
        case ast.Name(id=name):
            return names.get(name, HOLE)
        case ast.Call(func=ast.Name(id=name)):
            return names.get(f"{name}()", HOLE)
    return HOLE


def whole_list() -> str:
    """The list of errors, room by room, as Markdown."""
    lines, last = [], ""
    for text in sorted(texts(), key=lambda text: (text.room, text.path, text.line)):
        if text.room != last:
            last = text.room
            lines += ["", f"## {text.room}", ""]
        wrong, cure = text.split
        lines += [f"`{(wrong or cure).replace('`', '')}`", f":   {_escaped(cure)}", ""]
    return "\n".join(lines)


def _escaped(words: str) -> str:
    return re.sub(r"([*_<>`\[\]\\])", r"\\\1", words)


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """mkdocs calls this for every page."""
    return markdown.replace(MARK, whole_list()) if page.file.src_uri == PAGE else markdown

"""docs/errors.md when the site is built: every error text that the sources hold, each with what it says to do.

The texts are read out of the code, so the page cannot lack one. `tests/test_docs.py` holds each of them to a cure.
"""

import ast
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("modist_fast", "pipelines/modist_pipelines", "profiling/modist_profiling", "kernels/modist_kernels")
ROOTS = {"ConfigError", "DataError", "ReportError"}
"""What a command prints as one paragraph; with the classes that are derived from these."""
REASONS = {"VideoError", "DamagedError"}
"""Of one video: a row of the quarantine or a line of the log, and nothing to type anew."""
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
        return self.path.parent.relative_to(REPOSITORY).as_posix()

    @property
    def split(self) -> tuple[str, str]:
        """What is wrong, and what to do: from the first clause on that tells somebody to do something."""
        places = [0, *(found.end() for found in _CLAUSE.finditer(self.words))]
        for place in places:
            if _CURE.match(self.words, place):
                return self.words[:place].rstrip(" ;:,"), self.words[place:]
        rule = next((place for place in reversed(places) if _RULE.search(self.words, place)), None)
        return (self.words, "") if rule is None else (self.words[:rule].rstrip(" ;:,"), self.words[rule:])


def texts(packages: tuple[str, ...] = PACKAGES) -> list[Text]:
    """Every error that a user can meet, in the order of the files."""
    trees = {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for package in packages
        for path in sorted((REPOSITORY / package).rglob("*.py"))
    }
    kinds, constants = _kinds(trees), _constants(trees)
    return [text for path, tree in trees.items() for text in _of_module(path, tree, kinds - REASONS, constants)]


def reasons(packages: tuple[str, ...] = PACKAGES) -> set[str]:
    """The short names by which the quarantine says why a video was left out."""
    found = set()
    for package in packages:
        for path in (REPOSITORY / package).rglob("*.py"):
            for call in _calls(ast.parse(path.read_text(encoding="utf-8")), {"VideoError"}):
                if call.args and isinstance(call.args[0], ast.Constant):
                    found.add(call.args[0].value)
    return found


def _kinds(trees: dict[Path, ast.Module]) -> set[str]:
    """`ROOTS` and every class below them."""
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    kinds = set(ROOTS)
    while more := {node.name for node in classes if {ast.unparse(base) for base in node.bases} & kinds} - kinds:
        kinds |= more
    return kinds


def _constants(trees: dict[Path, ast.Module]) -> dict[str, str]:
    """Texts that modules hold by name, which errors put in."""
    return {
        target.id: node.value.value
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name) and " " in node.value.value
    }


def _calls(tree: ast.AST, kinds: set[str]) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
            yield node


def _of_module(path: Path, tree: ast.Module, kinds: set[str], constants: dict[str, str]) -> Iterator[Text]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for call in _calls(tree, kinds):
        around = [node for node in functions if node.lineno <= call.lineno <= (node.end_lineno or 0)]
        names = constants | {name: words for node in around for name, words in _locals(node, constants).items()}
        for argument in call.args[:1]:
            # A name or a call alone hands on the words of another error, which stands where it was made.
            if words := _words(argument, names).strip(f"{HOLE} "):
                whole = re.sub(r"\s+", " ", _words(argument, names)).strip()
                if len(words.split()) > 1:
                    yield Text(path, call.lineno, ast.unparse(call.func), whole)


def _locals(function: ast.FunctionDef, constants: dict[str, str]) -> dict[str, str]:
    """Texts that a function gives a name before it raises them."""
    return {
        target.id: words
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and len((words := _words(node.value, constants)).split()) > 3
    }


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
    return HOLE


def page() -> str:
    """The list of errors, room by room, as Markdown."""
    lines, last = [], ""
    for text in sorted(texts(), key=lambda text: (text.room, text.path, text.line)):
        if text.room != last:
            last = text.room
            lines += ["", f"## {text.room}", ""]
        wrong, cure = text.split
        lines += [f"`{html.unescape(wrong or cure).replace('`', '')}`", f":   {_escaped(cure)}", ""]
    return "\n".join(lines)


def _escaped(words: str) -> str:
    return re.sub(r"([*_<>`\[\]\\])", r"\\\1", words)


def on_page_markdown(markdown: str, page: object, **_: object) -> str:
    """mkdocs calls this for every page."""
    if getattr(page, "file").src_uri != PAGE:  # noqa: B009  mkdocs is not there for the checker of types
        return markdown
    return markdown.replace(MARK, globals()["page"]())

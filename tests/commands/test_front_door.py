"""`modist`: every command in one table, little imported before it is known which; and from a wheel alone."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from modist_fast import __version__
from modist_fast.__main__ import COMMANDS, find
from modist_fast.commands.cli import Parser, parse_options
from tests.commands.launching import run_words

REPOSITORY = Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join(str(REPOSITORY / name) for name in (".", "kernels", "pipelines", "profiling"))


def modist(
    *words: object, setup: str = "", path: str = PATHS, cwd: Path = REPOSITORY, flags: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """The console script's own call, in a process of its own; `setup` runs before, `flags` are Python's."""
    code = f"{setup}\nimport sys; sys.argv = ['modist', *{[str(word) for word in words]}]\n"
    code += "from modist_fast.__main__ import main; main()"
    return subprocess.run(
        [sys.executable, *flags, "-c", code],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )


def without(*names: str) -> str:
    """Code that makes these packages impossible to import."""
    return (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if any(name == absent or name.startswith(absent + '.') for absent in {names}):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())"
    )


def test_every_command_is_there_and_what_is_alike_is_named() -> None:
    for module, what in COMMANDS.values():
        assert importlib.util.find_spec(module) is not None, module
        assert what
    assert find(["bench", "loss", "--sweep"]) == ("bench loss", ["--sweep"])
    assert find(["pretrain", "bench"]) == ("pretrain", ["bench"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("pretrian", "pretrain"),
        ("docter --json", "doctor"),
        ("bench losss", "bench loss"),
        ("benhc loss", "bench loss"),
        ("gpu-check", "bench gpu-check"),
        ("--hlep", "--help"),
    ],
)
def test_a_command_that_is_not_there_names_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(LookupError, match=f"Did you mean '{meant}'"):
        find(typed.split())


def test_a_command_like_no_other_names_none() -> None:
    with pytest.raises(LookupError, match=r"no command 'xyzzy'\.$"):
        find(["xyzzy"])


@dataclass(frozen=True)
class Some:
    store: Path
    batch_size: int = 1
    shuffle: bool = True


def with_argparse(words: list[str]) -> None:
    parser = Parser(prog="modist soak")
    parser.add_argument("--store", required=True)
    parser.add_argument("--batch-size")
    parser.parse_args(words)


@pytest.mark.parametrize("parse", [with_argparse, partial(parse_options, Some)], ids=["argparse", "tyro"])
def test_an_option_that_is_not_there_names_the_nearest(
    parse: Callable[[list[str]], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a required one is missing, which tyro and argparse complain of first; what is no slip is let be."""
    for words, near in (
        (["--store", "S", "--batch-siez", "3"], "--batch-siez. Did you mean --batch-size?"),
        (["--batch_siez=3", "--stroe", "S"], "--stroe. Did you mean --store?"),
        (["--stor", "S"], "--stor. Did you mean --store?"),  # no abbreviations
    ):
        with pytest.raises(SystemExit) as caught:
            parse(words)
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert f"There is no option {near}" in said
        assert said.count("There is no option") == sum(word.startswith("--") for word in words) - ("--store" in words)
    with pytest.raises(SystemExit):
        parse(["--batch-size", "3"])
    assert "There is no option" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "bench gpu-check"),
        (["--version"], 0, __version__),
        (["bench"], 0, "bench scaling"),
        (["pretrain", "--help"], 0, "--objective.cross-negatives"),
        (["pretrain", "--preset", "demo", "--store", "s", "--out", "o", "--epcohs", "3"], 2, "--epochs"),
        (["pretrain", "--preset", "dmeo", "--out", "o"], 2, "modist-r50"),
        (["prepar"], 2, "Did you mean 'prepare'?"),
        (["doctor", "--jsno"], 2, "Did you mean --json?"),
    ],
)
def test_help_and_slips_of_the_finger_need_no_torch(words: list[str], code: int, said: str) -> None:
    """By a torch that cannot be imported: with it, help took seconds."""
    done = modist(*words, setup=without("torch"))
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_what_needs_no_torch_does_not_import_it(tmp_path: Path) -> None:
    """Help, options that are wrong, and a folder that is taken: each in a process where torch has not been seen yet."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "linear").mkdir()
    (tmp_path / "linear" / "result.json").write_text('{"task": "linear"}')
    names = ("evaluate", "evaluate linear", "features", "predict", "convert", "gradcam", "prepare", "pretrain", "demo")
    network = ["--backbone", "B", "--store", "S"]
    cases = [
        *([*name.split(), "--help"] for name in names),
        ["evaluate", "linear", *network, "--out", "o", "--features.batch-size", "0"],
        ["evaluate", "knn", *network, "--out", f"{tmp_path / 'linear'}"],
        ["features", "v", "--backbone", "B", "--out", "f.txt"],
        ["predict", "v", "--classifier", "C", "--out", "f.txt"],
        ["gradcam", *network, "--out", "o", "--num-shown", "0"],
        ["prepare", "v", "--out", "o", "--for", "tiyn"],
        ["pretrain", "--preset", "tiny", "--store", "S", "--out", f"{tmp_path / 'run'}"],
    ]
    code = (
        "import io, sys\nfrom contextlib import redirect_stderr, redirect_stdout, suppress\n"
        "from modist_fast.__main__ import main\n"
        f"for words in {cases!r}:\n"
        "    sys.argv = ['modist', *words]\n"
        "    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said, suppress(SystemExit):\n"
        "        main()\n"
        "    assert 'Traceback' not in said.getvalue(), said.getvalue()\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    done = run_words([sys.executable, "-c", code], PYTHONPATH=PATHS)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_error_in_several_processes_is_said_once_and_nothing_after_it(tmp_path: Path) -> None:
    """Two processes meet it; the code is theirs. torchrun's own would have a traceback, and end with 1."""
    (tmp_path / "config.json").write_text("{}")
    options = ["pretrain", "--preset", "tiny", "--device", "cpu", "--store", tmp_path / "none", "--out", tmp_path]
    done = modist("--nproc-per-node", 2, *options)
    said = done.stderr[done.stderr.index("error: ") :]
    assert (done.returncode, said.count("error: ")) == (2, 1)
    assert "already holds a run" in said
    assert len(said.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "OMP_NUM_THREADS" not in done.stderr
    none = modist("--nproc-per-node", 2, "pretrian")
    assert (none.returncode, "no command follows --nproc-per-node 2 pretrian" in none.stderr) == (2, True)


@pytest.mark.slow
def test_kernels_stand_alone() -> None:
    """A loop of one's own wants the fused loss, and none of the packages for videos."""
    missing = without("nvidia", "tyro", "av", "cv2", "pyarrow", "rich", "nvtx", "modist_fast", "modist_pipelines")
    code = (
        f"{missing}\nimport torch; from modist_kernels import queue_infonce\n"
        "q, k, bank = (torch.nn.functional.normalize(torch.randn(1, n, 128), dim=2) for n in (4, 4, 64))\n"
        "ids, owners = torch.arange(4, dtype=torch.int32), torch.arange(4, 68, dtype=torch.int32)\n"
        "wanted = torch.cat([(q * k).sum(2, keepdim=True), q @ bank.transpose(1, 2)], 2)[0].div(0.2)\n"
        "wanted = torch.nn.functional.cross_entropy(wanted, torch.zeros(4, dtype=torch.long), reduction='none')\n"
        "found = queue_infonce(q, k, bank, owners, ids, temperature=0.2).losses[0]\n"
        "torch.testing.assert_close(found, wanted)"
    )
    done = run_words([sys.executable, "-c", code], PYTHONPATH=PATHS)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`modist` of a wheel that is unpacked elsewhere, called in another folder; nothing leads to the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if not name.startswith("tests/") and (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*install, "--target", site, source], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (site / "bin" / "modist").is_file()
    assert (site / "modist_kernels" / "configurations.json").is_file()
    # -S leaves out the .pth files, by which an editable install finds the checkout.
    packages = [name for name in sys.path if Path(name).name in ("site-packages", "dist-packages")]
    call = partial(modist, cwd=folder, flags=("-S",))
    assert "No module named 'modist_fast'" in call("--version", path=os.pathsep.join(packages)).stderr
    return partial(call, path=os.pathsep.join([str(site), *packages]))


@pytest.mark.slow
def test_a_wheel_has_the_commands(wheel: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """The whole way but the training, and what a name of the roof leads to."""
    assert "bench gpu-check" in wheel("--help").stdout
    made = wheel("make-demo-videos", "videos", "--num-videos", 8)
    assert made.returncode == 0, made.stderr
    done = wheel("prepare", "videos", "--out", "store", "--short-side", 72)
    assert done.returncode == 0, done.stderr
    assert "8 videos" in done.stdout
    done = wheel("report", "store")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_wheel_without_dali_imports_and_its_doctor_says_what_it_costs(
    wheel: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """As on macOS and aarch64, for which there are no wheels of DALI and NVTX."""
    missing = without("nvidia.dali", "nvtx", "pynvml", "cupy")
    imports = "import modist_fast, modist_fast.api, modist_fast.trainer, modist_pipelines.clips.loader"
    done = wheel("doctor", setup=f"{missing}\n{imports}")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert any(line.startswith("absent  DALI") for line in done.stdout.splitlines())
    assert "Training does not run without: DALI." in done.stdout

"""One command at a time writes into a directory."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from modist_fast.errors import ConfigError
from modist_fast.host.distributed import World, on_main
from modist_fast.run.log_file import logged_to
from modist_pipelines.disk.lock import HeldError, held

NAME = ".lock"


@contextmanager
def alone_in(out: Path, world: World) -> Iterator[None]:
    """Hold OUT/.lock, on rank 0, while the command writes there; a crash lets it go. OUT/log.txt is open as long.

    Raises:
        ConfigError: another process holds it, or the directory cannot be made.
    """
    made = not out.exists()
    with ExitStack() as stack:
        on_main(world, lambda: _enter(stack, out))
        try:
            with logged_to(out) if world.is_main else nullcontext():
                yield
        finally:
            if made and world.is_main and [path.name for path in out.iterdir()] == [NAME]:
                shutil.rmtree(out)  # nothing came of it: a refused option leaves no folder


def _enter(stack: ExitStack, out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        stack.enter_context(held(out / NAME))
    except HeldError as error:
        raise ConfigError(
            f"--out {out}: {error} is writing there. Wait for its end, or choose another --out."
        ) from None
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror}. Choose a folder that can.") from error

"""What a store holds, whether it is whole, and how to get room back: modist store info|check|compact STORE"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import tyro

from modist_fast.commands.cli import parse_options, run_cli
from modist_fast.errors import ConfigError
from modist_pipelines.store.reader import VERSION, Store
from modist_pipelines.store.summary import Summary, rejected
from modist_pipelines.store.upkeep import Holes, compact, damage


@dataclass(frozen=True)
class StoreConfig:
    """Look after a store."""

    action: Annotated[Literal["info", "check", "compact"], tyro.conf.Positional]
    """info: what it holds. check: read every byte against its checksum; exit code 1 where one fails. compact: take the
    room that removed and replaced videos left out of its shards; runs go on as before."""
    store: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Folder of the store."""
    motion_threshold: float = 0.02
    """γ, for the share of videos and windows that it rejects: a share of the motion maps' full scale."""
    window: int = 4
    """Grid frames of a motion window."""

    def check(self) -> None:
        """
        Raises:
            ConfigError: an option out of its range.
        """
        if not 0 <= self.motion_threshold <= 1:
            raise ConfigError(f"--motion-threshold {self.motion_threshold} is a share: give 0 to 1.")
        if self.window < 1:
            raise ConfigError(f"--window {self.window}: give 1 or more grid frames.")


def main() -> int:
    config = parse_options(StoreConfig, config=(tyro.conf.FlagCreatePairsOff,))
    config.check()
    store = Store.open(config.store)
    if config.action == "info":
        print(_info(store, config))
    elif config.action == "check":
        found = damage(store)
        print("\n".join(found) or f"{store.path} is whole: {store.num_videos} videos, every checksum fits")
        return int(bool(found))
    else:
        freed = compact(store)
        print(f"{freed / 1e9:.3g} GB freed" if freed else "nothing to free")
    return 0


def _info(store: Store, config: StoreConfig) -> str:
    holes = Holes.of(store)
    lines = [
        str(Summary.of(store)),
        f"format {VERSION}, read by modist-fast {version('modist-fast')}; fingerprint {store.fingerprint()}",
        f"{holes.num_bytes / 1e9:.3g} GB of removed or replaced videos: modist store compact frees them",
    ]
    for name in store.meta.motion_inputs:
        videos, windows = rejected(store, name, config.motion_threshold, config.window)
        lines.append(
            f"γ = {config.motion_threshold:g} ({name}) rejects {windows:.1%} of the windows of {config.window} grid "
            f"frames, and {videos:.1%} of the videos altogether"
        )
    card = ", ".join(f"{name} {value}" for name, value in store.card().items() if not isinstance(value, dict))
    return "\n".join([*lines, card])


if __name__ == "__main__":
    run_cli(main)

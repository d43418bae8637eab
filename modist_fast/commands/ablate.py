"""The paper's ablations, and the questions of docs/evidence.md: modist ablate --table 3a --data FOLDER --out OUT"""

import logging

from modist_fast.ablation.config import AblationConfig
from modist_fast.commands.cli import parse_options, run_cli
from modist_fast.errors import ConfigError
from modist_fast.run.options import check_ranges

log = logging.getLogger("modist")


def main() -> int:
    config = parse_options(AblationConfig)
    check_ranges(config)
    from modist_fast.ablation.curves import save_curves  # torch takes seconds: after the options are read
    from modist_fast.ablation.experiment import Ablation
    from modist_fast.ablation.power import power_lines
    from modist_fast.ablation.report import write_report

    ablation = Ablation(config)
    if config.power is not None:
        if config.data is None:
            raise ConfigError("--power needs the manifest of the videos: pass --data FOLDER.")
        print("\n".join(power_lines(config.power, config.data, ablation.table)))
        return 0
    if config.dry_run:
        print("\n".join(ablation.commands()))
        return 0
    failed = ablation.run()
    write_report(ablation)
    save_curves(config.out / f"{config.table}-curves.png", ablation)
    print((config.out / f"{config.table}.md").read_text(encoding="utf-8"))
    files = ", ".join(f"{config.table}{ending}" for ending in (".md", ".png", "-curves.png"))
    print(f"{config.out}: {files}; {config.table}.json has every prediction")
    for name, reason in failed.items():
        log.error("%s: %s", name, reason)
    return 1 if failed else 0


if __name__ == "__main__":
    run_cli(main)

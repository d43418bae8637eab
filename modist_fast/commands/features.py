"""Features of videos: [torchrun … -m modist_fast | modist] features VIDEOS --backbone RUN --out F.parquet"""

import logging

from modist_fast.commands.cli import parse_options, starting
from modist_fast.evaluation.frozen.config import PlainVideosConfig, check_suffix

log = logging.getLogger("modist")


def main() -> None:
    config = parse_options(PlainVideosConfig, description=__doc__)
    check_suffix(config.out)
    starting()  # what comes now imports torch
    from modist_fast.evaluation.backbones import open_backbone
    from modist_fast.evaluation.frozen.plain_videos import run_features, write_features
    from modist_fast.host.distributed import join_world

    with join_world(config.device, config.collective_timeout) as world:
        if not world.is_main:
            log.setLevel(logging.WARNING)
        table = run_features(config, world)
        if world.is_main:
            write_features(table, config.out, open_backbone(config.network, config.seed).card)
            num, views, width = table.features.shape
            print(f"{num} × {views} features of {width} numbers, {len(table.odd)} videos odd: {config.out}")

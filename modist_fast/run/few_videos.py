"""A recipe for few videos: batch, groups and banks that follow their number."""

from dataclasses import replace

from modist_fast.config import TrainConfig

_LEAST_GROUPS = 4
"""Of a batch: ShuffleBN deals keys to other groups, and up to so many processes share them."""
_BANK_EPOCHS = 3
"""Of keys that a bank holds at most: older ones come from other nets, and of the same videos there are newer ones."""


def fitted(config: TrainConfig, num_videos: int, world_size: int) -> TrainConfig:
    """`config`, or one that `num_videos` are enough for, where it may follow them.

    The batch is as large as the videos allow and splits into groups over the processes; a bank holds the keys of three
    epochs at most. With as many videos as a batch asks for, nothing changes.

    Args:
        num_videos: usable ones.
        world_size: processes.
    """
    if not config.follow_videos or num_videos >= config.batch_size:
        return config
    group = max(2, min(config.group_size, num_videos // _LEAST_GROUPS))
    batch = num_videos // (group * world_size) * group * world_size
    if batch < 2 * group:  # then nothing fits, and the loader says what there is
        return config
    bank = max(batch, min(config.objective.bank_size, _BANK_EPOCHS * batch))
    return replace(config, batch_size=batch, group_size=group, objective=replace(config.objective, bank_size=bank))


def words(before: TrainConfig, after: TrainConfig, num_videos: int) -> str:
    """What was changed, for the log."""
    return (
        f"{num_videos} usable videos are fewer than a batch of {before.batch_size}, so --preset {before.preset} "
        f"follows them: --batch-size {after.batch_size} in groups of {after.group_size}, --objective.bank-size "
        f"{after.objective.bank_size}. --no-follow-videos refuses instead."
    )

"""What a finished store holds, in figures."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modist_pipelines.codec_motion.account import total, without
from modist_pipelines.codec_motion.steps import Counts
from modist_pipelines.source import SCORE_FULL_SCALE
from modist_pipelines.store.index import read_table
from modist_pipelines.store.reader import INDEX_NAME, QUARANTINE_NAME, Store
from modist_pipelines.video.reader import REASONS

# The paper's γ, a share of full scale: the share of frames below it is the first thing to look at.
_MOTION_THRESHOLD = 0.02
_NUM_NAMED = 3


@dataclass(frozen=True)
class Summary:
    """Figures of a store."""

    num_videos: int
    num_frames: int
    """Grid frames."""
    hours: float
    """Of video kept."""
    gigabytes: float
    num_noted: int
    """Videos kept with a note: some of it was damaged."""
    quarantined: Mapping[str, Sequence[str]]
    """Reason to the videos left out."""
    filled: Counts
    """Motion vectors that were not in the streams."""
    motion: Mapping[str, tuple[float, float]]
    """Motion input to the mean of its maps and the share of grid frames whose mean is at most 0.02; of full scale."""

    @staticmethod
    def of(store: Store) -> "Summary":
        quarantined: dict[str, list[str]] = defaultdict(list)
        for row in read_table(store.tables / QUARANTINE_NAME).to_pylist():
            quarantined[row["reason"]].append(row["video"])
        notes = read_table(store.tables / INDEX_NAME, columns=["note"])["note"]
        means = {name: store.score_column(name).values / SCORE_FULL_SCALE for name in store.meta.motion_inputs}
        num_frames = int(store.num_frames.sum(dtype="int64"))
        return Summary(
            num_videos=store.num_videos,
            num_frames=num_frames,
            hours=num_frames * store.meta.grid / store.meta.fps / 3600,
            gigabytes=store.num_bytes() / 1e9,
            num_noted=sum(bool(note and without(note)) for note in notes.to_pylist()),
            filled=total(notes.to_pylist()),
            quarantined=dict(quarantined),
            motion={
                name: (float(values.mean()), float((values <= _MOTION_THRESHOLD).mean()))
                for name, values in means.items()
            },
        )

    def __str__(self) -> str:
        lines = [
            f"{self.num_videos:,} videos, {self.hours:.3g} h, {self.num_frames:,} grid frames, {self.gigabytes:.3g} GB"
        ]
        for name, (mean, share) in self.motion.items():
            lines.append(
                f"motion ({name}): mean {mean:.3g} of full scale; {share:.1%} of the grid frames at or below "
                f"{_MOTION_THRESHOLD}"
            )
        if self.filled.frames:
            lines.append(f"motion vectors: {self.filled}")
        if self.num_noted:
            lines.append(f"{self.num_noted} videos kept though partly damaged (column `note` of the index)")
        num_out = sum(map(len, self.quarantined.values()))
        lines.append(f"{num_out} files in quarantine" + (":" if num_out else ""))
        for reason, videos in sorted(self.quarantined.items()):
            named = ", ".join(videos[:_NUM_NAMED]) + (", ..." if len(videos) > _NUM_NAMED else "")
            lines.append(f"  {len(videos)} {reason} ({REASONS[reason]}): {named}")
        return "\n".join(lines)

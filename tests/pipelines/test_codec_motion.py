"""Flow out of the motion vectors of streams: of a picture that moves as planted, with DIS as its peer."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import prepare_parts
import pyarrow.parquet as pq
import pytest
from av.video.frame import PictureType
from made_videos import texture
from test_picture import DISPLAY_MATRICES, set_display_matrix

from modist_pipelines.codec_motion import account, steps, vectors
from modist_pipelines.codec_motion.reader import MotionReader
from modist_pipelines.codec_motion.steps import Counts
from modist_pipelines.errors import DataError
from modist_pipelines.motion_inputs import FramePairs
from modist_pipelines.prepare.encode import VideoEncoder
from modist_pipelines.prepare.flow import DisFlow, FlowName
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.store.reader import Store
from modist_pipelines.store.summary import Summary
from modist_pipelines.video.reader import VideoError
from modist_pipelines.video.write import write_video

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 100, 140  # no multiples of a macroblock: the coded frame is cropped
SPEED = (2, 1)  # pixels right and down that the camera goes a frame, so the picture goes back by them
ONE_REFERENCE = {"g": "12", "b": "2000000", "refs": "1"}
STREAMS = [
    ("libx264", "a.mp4", 0),
    ("libx264", "a.mkv", 3),
    ("libx264", "a.ts", 3),
    ("libx264", "a.avi", 0),
    ("mpeg4", "a.avi", 0),
    ("mpeg4", "a.avi", 2),
    ("mpeg4", "a.mp4", 2),
    ("mpeg2video", "a.mpg", 2),
]


def panned(num: int = 40, height: int = HEIGHT, width: int = WIDTH, speed: tuple[int, int] = SPEED) -> list[np.ndarray]:
    """A camera that goes over a texture by `speed` pixels a picture."""
    ground = texture(height + num * speed[1], width + num * speed[0]).astype(np.uint8)
    views = [ground[speed[1] * i :, speed[0] * i :][:height, :width] for i in range(num)]
    return [np.repeat(view[..., None], 3, axis=2) for view in views]


@dataclass
class _Flows:
    """Takes flow in the place of motion maps."""

    needs_flow: bool = True
    flows: list[np.ndarray] = field(default_factory=list)
    later: list[bool] = field(default_factory=list)

    def __call__(self, pairs: FramePairs) -> list[dict]:
        self.flows += list(np.asarray(pairs.flows))
        self.later += list(pairs.later)
        return [{} for _ in pairs.grays]


class _Nothing:
    def append(self, rgb, motion) -> None: ...


def flows_of(path: Path, name: str = "codec", short_side: int = HEIGHT) -> _Flows:
    taken = _Flows()
    encoder = VideoEncoder(
        short_side=short_side,
        fps=30.0,
        grid=4,
        jpeg_quality=90,
        flow=None if name == "codec" else DisFlow(),
        motion=taken,  # type: ignore[arg-type]
        codec_motion=name == "codec",
    )
    encoder.encode(path, _Nothing())
    return taken


def inner(field_of_flow: np.ndarray) -> np.ndarray:
    """Without the border, where blocks of new content have no vector to where they were."""
    return field_of_flow[20:-20, 20:-20]


def check_planted(path: Path, tolerance: float = 0.15) -> None:
    """From every stored frame each pixel went where the picture was five frames before, or after."""
    taken = flows_of(path)
    assert len(taken.flows) == 10
    for flow, later in zip(taken.flows, taken.later, strict=True):
        expected = np.array(SPEED) * (-5 if later else 5)
        assert np.abs(np.median(inner(flow), axis=(0, 1)) - expected).max() < tolerance
        assert np.linalg.norm(inner(flow) - expected, axis=-1).mean() < 2 * tolerance
    assert taken.later == [True] * 2 + [False] * 8


@pytest.mark.parametrize(("codec", "name", "b_frames"), STREAMS)
def test_a_panned_picture(tmp_path, codec, name, b_frames):
    """Key frames every twelve, whose motion comes from their neighbours; B frames, B frames that others refer to."""
    options = ONE_REFERENCE | {"bf": str(b_frames)}
    check_planted(write_video(tmp_path / name, panned(), 30, codec=codec, options=options))


def test_b_frames_that_others_refer_to_are_told_by_the_stream(tmp_path):
    """Where they are not, vectors are divided by the distance of the P frame before them, and not of the B frame."""
    path = write_video(tmp_path / "a.mp4", panned(), 30, options=ONE_REFERENCE | {"bf": "3", "b-pyramid": "strict"})
    with MotionReader(path) as reader:
        kinds = [frame.pict_type for frame in reader.decoded_frames()]
    assert kinds.count(PictureType.B) > 15
    check_planted(path)


def test_a_far_reference_costs_little(tmp_path):
    """Of several references FFmpeg does not say which: the nearest is taken, and what is off by it is averaged."""
    path = write_video(tmp_path / "a.mp4", panned(), 30, options={"g": "12", "bf": "3", "refs": "4"})
    check_planted(path, tolerance=1.5)


@pytest.mark.parametrize("fault", ["sign", "distance", "b-frames", "last"])
def test_a_planted_fault_is_seen(tmp_path, monkeypatch, fault):
    codec, b_frames = ("mpeg4", 2) if fault in ("distance", "b-frames") else ("libx264", 0)
    path = write_video(tmp_path / "a.mp4", panned(), 30, codec=codec, options=ONE_REFERENCE | {"bf": str(b_frames)})
    check_planted(path)
    paint = vectors.paint
    if fault == "sign":
        monkeypatch.setattr(steps, "paint", lambda *given: paint(*given) * np.array([-1, -1, 1], np.float32))
    elif fault == "distance":
        monkeypatch.setattr(steps, "paint", lambda found, _, grid: paint(found, vectors.Distances(), grid))
    elif fault == "b-frames":  # what FFmpeg says of blocks that go as the next P frame says is taken for no motion
        monkeypatch.setattr(steps, "usable", lambda found, *_: found)
    else:
        whole = MotionReader.steps
        monkeypatch.setattr(MotionReader, "steps", lambda *given: whole(*given)[:-1])
    with pytest.raises(AssertionError):
        check_planted(path)


@pytest.mark.parametrize("matrix", DISPLAY_MATRICES)
def test_turned_as_the_frames_are(tmp_path, matrix):
    path = write_video(tmp_path / "a.mp4", panned(24), 30, options=ONE_REFERENCE)
    set_display_matrix(path, matrix)
    check_against_dis(path, HEIGHT)


@pytest.mark.parametrize("short_side", [64, 128])
def test_pixels_that_are_not_square_and_another_size(tmp_path, short_side):
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is of the dev extra").get_ffmpeg_exe()
    plain = write_video(tmp_path / "b.mp4", panned(24, speed=(3, 1)), 30, options=ONE_REFERENCE)
    path = tmp_path / "a.mp4"
    shape = ("-bsf:v", "h264_metadata=sample_aspect_ratio=3/2")
    subprocess.run([ffmpeg, "-v", "error", "-i", plain, "-c", "copy", *shape, path], check=True)
    check_against_dis(path, short_side)


def check_against_dis(path: Path, short_side: int) -> None:
    ours, peers = (flows_of(path, name, short_side) for name in ("codec", "dis"))
    for flow, peer in zip(ours.flows, peers.flows, strict=True):
        assert flow.shape == peer.shape
        middle, expected = (np.median(one[20:-20, 20:-20], axis=(0, 1)) for one in (flow, peer))
        assert np.abs(middle - expected).max() < 0.05 * np.abs(expected).max() + 0.15


def test_what_moves_alone_moves_alone(tmp_path):
    """A square on ground that stands still: motion where it is, and none far from it."""
    ground, square = texture(128, 192, seed=1), texture(64, 64, seed=2)
    pictures = []
    for number in range(40):
        picture = ground.copy()
        picture[16:80, 16 + 2 * number : 80 + 2 * number] = square
        pictures.append(np.repeat(picture.astype(np.uint8)[..., None], 3, axis=2))
    path = write_video(tmp_path / "a.avi", pictures, 30, codec="mpeg4", options=ONE_REFERENCE | {"bf": "2"})
    for number, flow in enumerate(flows_of(path, short_side=128).flows[2:], 2):
        left = 16 + 2 * 4 * number
        assert np.abs(np.median(flow[40:56, left + 24 : left + 40], axis=(0, 1)) - (-10, 0)).max() < 1
        assert np.abs(flow[108:]).mean() < 0.3


def test_blocks_without_motion_take_that_of_their_neighbours_in_time(tmp_path):
    path = write_video(tmp_path / "a.avi", panned(), 30, codec="mpeg4", options=ONE_REFERENCE)
    with MotionReader(path) as reader:
        frames = list(reader.nominal_frames(30.0))
        note = reader.notes()
    counts = account.total([note])
    kinds = [frame.pict_type for _, frame in frames]
    assert counts.frames_without == kinds.count(PictureType.I) - 1 > 1  # the first frame has none before it
    assert counts.frames == len(frames) - 1
    assert "3 of 39 frames held none" in str(counts)


# ---- Streams without vectors


REFUSED = {
    "vp9.webm": (
        "libvpx-vp9",
        {"deadline": "realtime", "cpu-used": "8"},
        "vp9: FFmpeg exports no motion vectors of this codec",
    ),
    "mjpeg.avi": ("mjpeg", {"strict": "-1"}, "mjpeg: FFmpeg exports no motion vectors of this codec"),
    "hevc.mp4": ("libx265", {"x265-params": "log-level=none"}, "hevc: FFmpeg exports no motion vectors of this codec"),
    "intra.mp4": ("libx264", {"g": "1"}, "h264: 32 of 32 frames hold no motion vectors"),
    "half.mp4": ("libx264", {"x264-params": "keyint=2:min-keyint=2:scenecut=0"}, "kept"),
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    write_video(folder / "good.avi", panned(), 30, codec="mpeg4")
    for name, (codec, options, _) in REFUSED.items():
        write_video(folder / name, panned(), 30, codec=codec, options=options)
    pictures = folder / "pictures"
    pictures.mkdir()
    for number, picture in enumerate(panned(20)):
        cv2.imwrite(str(pictures / f"img_{number:05d}.jpg"), picture)
    return folder


def made(videos: Path, out: Path, flow: FlowName = "codec", motion_inputs: Sequence[str] = ("edges",)) -> Store:
    config = PrepareConfig(videos, out, short_side=64, workers=1, flow=flow, motion_inputs=tuple(motion_inputs))
    assert isinstance(prepare(config, prepare_parts.opencv_edges), Summary)
    return Store.open(out)


def test_streams_without_vectors_are_left_out_and_say_why(mixed, tmp_path):
    store = made(mixed, tmp_path / "store")
    assert set(store.videos) == {"good.avi", "half.mp4"}
    rows = {row["video"]: row for row in pq.read_table(tmp_path / "store" / "quarantine.parquet").to_pylist()}
    for name, (*_, why) in REFUSED.items():
        if why != "kept":
            assert rows[name]["reason"] == "no_motion_vectors"
            assert why in rows[name]["detail"]
            assert "--flow dis" in rows[name]["detail"]
    assert rows["pictures"]["reason"] == "no_motion_vectors"
    assert "a folder of pictures" in rows["pictures"]["detail"]
    text = str(Summary.of(store))
    assert "motion vectors: " in text
    assert "partly damaged" not in text  # what is filled in is no damage
    assert set(made(mixed, tmp_path / "dis", "dis").videos) == {"good.avi", *REFUSED, "pictures"}


def test_no_video_with_vectors_is_an_error(mixed, tmp_path):
    one = tmp_path / "videos"
    one.mkdir()
    (one / "vp9.webm").symlink_to(mixed / "vp9.webm")
    with pytest.raises(DataError, match="1 no_motion_vectors"):
        made(one, tmp_path / "store")


def test_a_store_says_that_it_is_of_the_codec(mixed, tmp_path):
    one = tmp_path / "videos"
    one.mkdir()
    (one / "good.avi").symlink_to(mixed / "good.avi")
    store = made(one, tmp_path / "store", motion_inputs=("edges", "flow", "magnitude"))
    assert store.card()["flow"] == "codec"
    peer = made(one, tmp_path / "dis", "dis", ("edges", "flow", "magnitude"))
    for name in ("flow", "magnitude"):  # as far in both: a panned picture moves everywhere
        np.testing.assert_allclose(store.scores(0, name).mean(), peer.scores(0, name).mean(), rtol=0.1)
    with pytest.raises(DataError, match="another --flow: it has codec, this command dis"):
        made(one, tmp_path / "store", "dis", ("edges", "flow", "magnitude"))
    # Without an input that needs flow nothing asks for vectors.
    assert set(made(mixed, tmp_path / "difference", motion_inputs=["difference"]).videos) > {"vp9.webm", "good.avi"}


def test_a_file_of_sound_is_no_matter_of_vectors(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(VideoError, match="unreadable"):
        MotionReader(path)


def test_what_is_filled_in_is_read_out_of_notes():
    counts = Counts(frames=10, frames_without=2, cells=800, cells_without=40)
    note = f"1 damaged packets or frames, {account.describe(counts)}"
    assert account.total([note, None, "3 interlaced frames", account.describe(counts)]) == Counts(20, 4, 1600, 80)
    assert account.without(note) == "1 damaged packets or frames"
    assert account.without(account.describe(counts)) == ""
    assert account.total([account.describe(Counts(frames=10, cells=8))]) == Counts(frames=10, cells=8)
    assert account.describe(Counts()) == ""

"""The picture that FFmpeg shows: its turns, shape, stream and colours, beside the frames of its own program."""

import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import prepare_parts
import pyarrow.parquet as pq
import pytest
from made_videos import moving_pictures
from made_videos import write_video as write_bars

from modist_pipelines.errors import DataError
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.store.reader import Store
from modist_pipelines.video.picture import RULES, FrameScaler, PictureRules, upright_rgb
from modist_pipelines.video.raw import RawVideos
from modist_pipelines.video.reader import VideoError, VideoReader
from modist_pipelines.video.write import write_video

ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is of the dev extra").get_ffmpeg_exe()
SQUARE = "scale=iw*sar:ih,setsar=1"
LEVELS = 3
DISPLAY_MATRICES = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)]
DISPLAY_MATRICES += [(0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0)]


def run(*arguments: str | Path) -> bytes:
    command = [ffmpeg, "-v", "error", "-nostdin", "-threads", "1", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def shown(path: Path, filters: str = SQUARE, *options: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB: the first frame as FFmpeg's program writes it."""
    flags = ("-sws_flags", "bilinear")
    output = ("-frames:v", "1", "-f", "image2", "-c:v", "png", "-")
    png = run(*options, "-i", path, "-vf", filters, *flags, *output)
    # A frame that FFmpeg was told not to turn keeps its turn as a mark.
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert picture is not None
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def smooth(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 in strong colours that no mirror or turn leaves alone, and chroma follows."""
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    return np.rint(np.stack([50 + 110 * x, 60 + 110 * y, 190 - 100 * x * y], -1)).astype(np.uint8)


def assert_as_ffmpeg(path: Path, expected: np.ndarray, rules: PictureRules = RULES) -> None:
    """In a store's frames and in the raw source's."""
    with VideoReader(path) as reader:
        frame = next(reader.decoded_frames())
        full = upright_rgb(frame, reader.pixel_aspect, rules)
        scaled = FrameScaler(min(expected.shape[:2]), reader.pixel_aspect, rules)(frame)[..., ::-1]
    for picture in (full, scaled):
        assert picture.shape == expected.shape
        assert within(picture, expected)
    source = RawVideos(path.parent, names=[path.name], rules=rules)
    assert (source.info(0).height, source.info(0).width) == expected.shape[:2]
    (raw,) = source.read(0, {"rgb": [0]}).frames["rgb"]
    assert within(raw, expected)


def within(picture: np.ndarray, expected: np.ndarray) -> bool:
    """Nearly all values within 3 levels; FFmpeg may scale before it converts, which rounds single ones once more."""
    difference = np.abs(picture.astype(int) - expected)
    return difference.max() <= LEVELS + 2 and (difference > LEVELS).mean() < 2e-3


def set_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    identity = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    a, b, c, d = (0x10000 * value for value in matrix)
    data = path.read_bytes()
    place = data.index(identity, data.index(b"tkhd"))
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data[:place] + turned + data[place + len(identity) :])


@pytest.mark.parametrize("matrix", DISPLAY_MATRICES)
def test_all_eight_orientations(tmp_path, matrix):
    path = write_video(tmp_path / "a.mp4", [smooth(64, 96)] * 20, 30)
    set_display_matrix(path, matrix)
    assert_as_ffmpeg(path, shown(path))


def test_a_display_matrix_of_nothing_turns_nothing(tmp_path):
    path = write_video(tmp_path / "a.mp4", [smooth(64, 96)] * 20, 30)
    plain = shown(path)
    set_display_matrix(path, (0, 0, 0, 0))
    assert_as_ffmpeg(path, plain)


def test_reported_files(shared_data):
    folder = shared_data / "reported"
    for name in ("mir_vflip.mp4", "mir_rot90_hflip.mp4", "sar_16_9.mp4", "two_streams.mp4"):
        path = folder / name
        with VideoReader(path) as reader:
            picture = upright_rgb(next(reader.decoded_frames()), reader.pixel_aspect)
        expected = shown(path)
        assert picture.shape == expected.shape, name
        # FFmpeg's test source has hard edges of colour, where ways to enlarge chroma part.
        assert np.median(np.abs(picture.astype(int) - expected)) <= 1, name


@pytest.mark.parametrize(("sar", "size"), [("16/9", (113, 64)), ("8/9", (64, 72)), ("64/45", (91, 64))])
def test_pixels_that_are_not_square(tmp_path, sar, size):
    pictures = [smooth(72, 72) if sar == "8/9" else smooth(64, 64)] * 20
    write_video(tmp_path / "b.mp4", pictures, 30, options={"crf": "1"})
    path = tmp_path / "a.mp4"
    run("-i", tmp_path / "b.mp4", "-vf", f"setsar={sar}", "-crf", "1", path)
    assert_as_ffmpeg(path, shown(path))
    assert shown(path).shape[1::-1] == size
    assert_as_ffmpeg(path, shown(path, "null"), replace(RULES, aspect="storage"))


def test_turned_pixels_that_are_not_square(tmp_path):
    """A phone's anamorphic recording: the shape is that of the stored frame, which is turned afterwards."""
    write_video(tmp_path / "b.mp4", [smooth(64, 96)] * 20, 30, options={"crf": "1"})
    path = tmp_path / "a.mp4"
    run("-i", tmp_path / "b.mp4", "-vf", "setsar=4/3", "-crf", "1", path)
    set_display_matrix(path, (0, 1, -1, 0))
    expected = np.rot90(shown(path, SQUARE, "-noautorotate"), -1)
    assert expected.shape[:2] == (128, 64)
    assert_as_ffmpeg(path, expected)


@pytest.mark.parametrize("tagged", ["bt709", "smpte170m", None])
@pytest.mark.parametrize("size", [(720, 1280), (480, 640)])
def test_colours(tmp_path, tagged, size):
    """A file that names its matrix is read with it; one that does not, with BT.709 from HD on."""
    options = {"crf": "10", "preset": "ultrafast"} | ({"colormatrix": tagged} if tagged else {})
    path = write_video(tmp_path / "a.mp4", [smooth(*size)] * 16, 30, options=options)
    if tagged:
        tag = {"bt709": "1", "smpte170m": "6"}[tagged]
        run("-i", path, "-c", "copy", "-bsf:v", f"h264_metadata=matrix_coefficients={tag}", tmp_path / "t.mp4")
        path = tmp_path / "t.mp4"
    matrix = "scale=in_color_matrix=bt709:flags=bilinear" if tagged is None and size[0] == 720 else "null"
    assert_as_ffmpeg(path, shown(path, matrix))
    if tagged is None:
        assert_as_ffmpeg(path, shown(path, "null"), replace(RULES, untagged_hd="bt601"))


def test_full_range(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(tmp_path / "b.mp4", [smooth(64, 96)] * 20, 30)
    run("-i", tmp_path / "b.mp4", "-vf", "scale=out_range=full", "-pix_fmt", "yuvj420p", "-crf", "10", path)
    assert_as_ffmpeg(path, shown(path))


@pytest.mark.parametrize("default", [0, 1, None])
def test_the_stream_that_ffmpeg_takes(tmp_path, default):
    """The larger one, but where the smaller is marked as the default."""
    for name, size in (("small", (48, 64)), ("large", (64, 128))):
        write_video(tmp_path / f"{name}.mp4", [smooth(*size)] * 20, 30)
    path = tmp_path / "both.mkv"
    marks = [f"-disposition:v:{i}" for i in range(2)], ["default" if i == default else "0" for i in range(2)]
    disposition = [word for pair in zip(*marks, strict=True) for word in pair]
    inputs = ["-i", tmp_path / "small.mp4", "-i", tmp_path / "large.mp4", "-map", "0", "-map", "1"]
    run(*inputs, "-c", "copy", *disposition, "-default_mode", "passthrough", path)
    assert_as_ffmpeg(path, shown(path))


def test_a_picture_is_never_the_video(tmp_path):
    """Cover art, and a track of one large frame, which FFmpeg would take for the best."""
    write_video(tmp_path / "v.mp4", [smooth(48, 64)] * 20, 30)
    write_video(tmp_path / "one.mp4", [smooth(256, 256)], 30)
    cv2.imwrite(str(tmp_path / "cover.png"), smooth(300, 300))
    inputs = ["-i", tmp_path / "one.mp4", "-i", tmp_path / "cover.png", "-i", tmp_path / "v.mp4"]
    maps = ["-map", "0", "-map", "1", "-map", "2", "-c", "copy", "-disposition:v:1", "attached_pic"]
    run(*inputs, *maps, tmp_path / "a.mp4")
    assert_as_ffmpeg(tmp_path / "a.mp4", shown(tmp_path / "v.mp4"))


def changing(folder: Path, first: tuple[int, int], second: tuple[int, int]) -> Path:
    """An MPEG-TS whose frames change their size (height, width) after 30 frames."""
    path = folder / "change.ts"
    data = b""
    for number, (height, width) in enumerate((first, second)):
        part = write_bars(folder / f"parts/{number}.mp4", moving_pictures(30, 2, height, width))
        run("-i", part, "-c", "copy", "-output_ts_offset", str(number), "-f", "mpegts", folder / "parts/p.ts", "-y")
        data += (folder / "parts/p.ts").read_bytes()
    path.write_bytes(data)
    return path


def options(folder: Path, **more) -> PrepareConfig:
    return PrepareConfig(folder, folder.parent / "store", short_side=48, workers=1, **more)


def test_frames_that_change_their_shape(tmp_path):
    path = changing(tmp_path / "v", (64, 96), (96, 64))
    with pytest.raises(DataError, match="1 changes_shape"):
        prepare(_only(path), prepare_parts.opencv_edges)
    (row,) = pq.read_table(tmp_path / "store/quarantine.parquet").to_pylist()
    assert row["reason"] == "changes_shape"
    assert "from 96x64 to 64x96 pixels" in row["detail"]
    prepare(replace(_only(path), size_change="scale"), prepare_parts.opencv_edges)
    store = Store.open(tmp_path / "store")
    assert store.meta.size_change == "scale"
    # Each frame from its own size: the later ones hold the whole of the later picture.
    with VideoReader(path) as reader:
        whole = [frame.to_ndarray(format="bgr24") for frame in reader.decoded_frames()][32]
    stored = cv2.imdecode(store.read_frames(0, "rgb", [8])[0], cv2.IMREAD_COLOR)
    assert stored is not None
    assert np.abs(stored.astype(int) - cv2.resize(whole, stored.shape[1::-1], interpolation=cv2.INTER_AREA)).mean() < 6


def _only(path: Path) -> PrepareConfig:
    """The folder of one file alone."""
    folder = path.parent.parent / "alone"
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_bytes(path.read_bytes())
    return options(folder)


def test_another_resolution_of_the_same_shape_is_no_change(tmp_path):
    prepare(_only(changing(tmp_path / "v", (64, 96), (96, 144))), prepare_parts.opencv_edges)
    assert Store.open(tmp_path / "store").num_frames.tolist() == [15]


def test_interlaced_frames_are_noted(tmp_path):
    for number, picture in enumerate(moving_pictures(20, 2)):
        cv2.imwrite(str(tmp_path / f"{number:02d}.png"), picture)
    folder = tmp_path / "v"
    folder.mkdir()
    encode = ("-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-vf", "setfield=tff", "-q:v", "2")
    run("-framerate", "30", "-i", tmp_path / "%02d.png", *encode, folder / "a.mpg")
    prepare(options(folder), prepare_parts.opencv_edges)
    assert pq.read_table(tmp_path / "store/index.parquet")["note"].to_pylist() == ["20 interlaced frames"]


def test_a_store_of_before_keeps_its_rules(tmp_path):
    """Its store.json says nothing of them; a new one says display and refuse."""
    folder = tmp_path / "v"
    write_video(tmp_path / "b.mp4", moving_pictures(30, 2, 64, 64), 30)
    folder.mkdir()
    run("-i", tmp_path / "b.mp4", "-vf", "setsar=3/2", folder / "a.mp4")
    prepare(options(folder), prepare_parts.opencv_edges)
    store = Store.open(tmp_path / "store")
    assert (store.meta.aspect, int(store.width[0]), int(store.height[0])) == ("display", 72, 48)
    path = tmp_path / "store/store.json"
    text = path.read_text()
    for line in text.splitlines(keepends=True):
        if any(f'"{name}"' in line for name in ("aspect", "untagged_hd")):
            text = text.replace(line, "")
    path.write_text(text.replace(',\n  "size_change": "refuse"', ""))
    assert Store.open(tmp_path / "store").meta.aspect == "storage"
    prepare(options(folder), prepare_parts.opencv_edges)  # nothing to do
    with pytest.raises(DataError, match="--aspect"):
        prepare(options(folder, aspect="display"), prepare_parts.opencv_edges)


def test_storage_shape_by_option(tmp_path):
    write_video(tmp_path / "b.mp4", moving_pictures(30, 2, 64, 64), 30)
    (tmp_path / "v").mkdir()
    run("-i", tmp_path / "b.mp4", "-vf", "setsar=3/2", tmp_path / "v/a.mp4")
    prepare(options(tmp_path / "v", aspect="storage"), prepare_parts.opencv_edges)
    assert Store.open(tmp_path / "store").width.tolist() == [48]


def test_frames_of_an_extreme_shown_shape(tmp_path):
    write_video(tmp_path / "b.mp4", [smooth(32, 128)] * 20, 30)
    run("-i", tmp_path / "b.mp4", "-vf", "setsar=4/1", tmp_path / "a.mp4")
    with VideoReader(tmp_path / "a.mp4") as reader, pytest.raises(VideoError, match="extreme_shape"):
        FrameScaler(32, reader.pixel_aspect)(next(reader.decoded_frames()))
    assert av.open(str(tmp_path / "a.mp4")).streams.video[0].sample_aspect_ratio == 4

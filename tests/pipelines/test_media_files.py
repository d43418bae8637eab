"""A file costs itself alone, whatever FFmpeg says of it; and it is the file meant, whatever it is called."""

import itertools
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import prepare_parts
import pyarrow.parquet as pq
import pytest
from made_videos import numbered_picture, read_number, write_video

from modist_pipelines.clips.loader import ClipLoader
from modist_pipelines.disk.names import as_text, file_path
from modist_pipelines.errors import DamagedError
from modist_pipelines.plan import ClipSpec, PlanConfig
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.prepare.shards import ShardMaker, ShardTask
from modist_pipelines.store.reader import Store, StoreMeta
from modist_pipelines.video import frames as frame_decoder
from modist_pipelines.video import picture
from modist_pipelines.video import reader as video
from modist_pipelines.video.frames import decode_nominal
from modist_pipelines.video.index import read_index
from modist_pipelines.video.raw import RawVideos
from modist_pipelines.video.reader import VideoReader

NUM_FRAMES = 24
NUM_GOOD = 3  # packets that come before a fault
NAMES = [
    *("12:30:05.mp4", "a:b.mp4", "C:\\w.mp4", "http:x.mp4", "file:x.mp4", "concat:x.mp4", "data:,x.mp4", "fd:.mp4"),
    *("pipe:1.mp4", "subfile,,start,0:x.mp4", "%d.mp4", "a%03d.mp4", "%s{0}.mp4", "*.mp4", "what?.mp4", "-.mp4"),
    *("-i.mp4", "#1.mp4", " s p a c e .mp4", "a,b;c'\".mp4", "[b]x[b].mp4", "[/a]/x.mp4", "übung 日本.mp4"),
    *("new\nline.mp4", "tab\t.mp4", "\x1b[31mred.mp4", "x" * 251 + ".mp4", "h:/deep%d/" + "y" * 251 + ".mp4"),
]


def numbered(path: Path, shift: int = 0, **options: Any) -> Path:
    """A video whose frame i shows the number shift + i."""
    return write_video(path, [numbered_picture(shift + number) for number in range(NUM_FRAMES)], **options)


def prepared(folder: Path, out: Path, **options: Any) -> Store:
    prepare(
        PrepareConfig(folder, out, short_side=32, workers=2, motion_inputs=(), **options), prepare_parts.opencv_edges
    )
    return Store.open(out)


def quarantine(store: Path) -> dict[str, tuple[str, str]]:
    rows = pq.read_table(store / "quarantine.parquet").to_pylist()
    return {row["video"]: (row["reason"], row["detail"]) for row in rows}


# What FFmpeg raises.


def kinds(base: type[av.FFmpegError]) -> Iterator[type[av.FFmpegError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def errors() -> list[Exception]:
    """One of every class that PyAV has for what FFmpeg says, and what Python says of absurd sizes and times."""
    of_ffmpeg = [kind(5, kind.__name__) for kind in dict.fromkeys([av.FFmpegError, *kinds(av.FFmpegError)])]
    assert len(of_ffmpeg) > 40
    undecodable = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    of_python = [MemoryError(), OverflowError("too large"), ZeroDivisionError("by zero"), RecursionError("too deep")]
    of_bindings = [
        TypeError("an integer is required"),
        AttributeError("no codec"),
        AssertionError("side data"),
        Unheard(),
    ]
    return [*of_ffmpeg, undecodable, *of_python, *of_bindings]


class Unheard(Exception):
    """Of no kind that anyone knows."""


class Broken:
    """A container that fails in one way."""

    def __init__(self, container: Any, error: Exception, at: str) -> None:
        self._container, self._error, self._at = container, error, at

    def __getattr__(self, name: str) -> Any:
        if self._at == name:
            raise self._error
        return getattr(self._container, name)

    def demux(self, stream: Any) -> Iterator[Any]:
        for number, packet in enumerate(self._container.demux(stream)):
            if self._at == "demux" and number == NUM_GOOD:
                raise self._error
            yield BrokenPacket(packet, self._error) if self._at == "decode" and number >= NUM_GOOD else packet


class BrokenPacket:
    def __init__(self, packet: Any, error: Exception) -> None:
        self._packet, self._error = packet, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._packet, name)

    def decode(self) -> Any:
        raise self._error


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, at: str, planned: list[Exception | None]) -> Iterator[None]:
    """Have the files that are opened one after another fail with these errors; None leaves one whole."""
    left = iter(planned)
    real = av.open

    def stand_in(*args: Any, **options: Any) -> Any:
        error = next(left)
        if error is not None and at == "open":
            raise error
        container = real(*args, **options)
        return container if error is None else Broken(container, error, at)

    with monkeypatch.context() as patch:
        patch.setattr(av, "open", stand_in)
        yield
    assert next(left, "none") == "none"


REASON_AT = {"open": "unreadable", "streams": "unreadable", "demux": "decode_error", "decode": "decode_error"}


@pytest.mark.parametrize("at", REASON_AT)
def test_whatever_ffmpeg_raises_costs_that_video(tmp_path, monkeypatch, at):
    good = numbered(tmp_path / "good.mp4")
    planned: list[Exception | None] = [None, *errors(), None]
    names = [f"{number:02d}.mp4" for number in range(len(planned))]
    for name in names:
        (tmp_path / name).symlink_to(good)
    meta = StoreMeta(short_side=32, motion_inputs={}, fps=30.0, grid=4, jpeg_quality=90, flow="none")
    maker = ShardMaker(tmp_path, tmp_path / "store", meta, prepare_parts.opencv_edges, None, "cpu")
    (tmp_path / "store/.partial").mkdir(parents=True)
    with failing(monkeypatch, at, planned):
        maker(ShardTask(0, tuple(names)), lambda report: None)
    partial = tmp_path / "store/.partial"
    assert pq.read_table(partial / "00000.parquet")["video"].to_pylist() == [names[0], names[-1]]
    rows = pq.read_table(partial / "00000.quarantine.parquet").to_pylist()
    assert [row["video"] for row in rows] == names[1:-1]
    assert {row["reason"] for row in rows} == {REASON_AT[at]}
    for row, error in zip(rows, planned[1:-1], strict=True):
        words = error.strerror if isinstance(error, av.FFmpegError) else str(error) or type(error).__name__
        assert words in row["detail"]


@pytest.mark.parametrize("at", ["open", "streams"])
def test_whatever_ffmpeg_raises_leaves_out_that_raw_video(tmp_path, monkeypatch, at):
    good = numbered(tmp_path / "videos/00.mp4")
    planned: list[Exception | None] = [None, *errors(), None]
    for number in range(1, len(planned)):
        (tmp_path / f"videos/{number:02d}.mp4").symlink_to(good)
    with failing(monkeypatch, at, planned):
        source = RawVideos(tmp_path / "videos", num_threads=1)
    assert list(source.videos) == ["00.mp4", f"{len(planned) - 1:02d}.mp4"]
    assert len(source.refused) == len(errors())
    assert all(reason.startswith("unreadable: ") for reason in source.refused.values())


@pytest.mark.parametrize("at", ["open", "demux", "decode", "seek"])
def test_whatever_ffmpeg_raises_while_clips_are_read(tmp_path, monkeypatch, at):
    """The file was whole when the run began. What a seek cannot give, decoding from the first frame on can."""
    monkeypatch.setattr(frame_decoder, "torchcodec_loads", lambda: False)
    numbered(tmp_path / "a.mp4")
    source = RawVideos(tmp_path)
    # Entered at a key frame by the file's list, then by its packets, then decoded from its first frame on; finding the
    # frames in its packets needs neither seeking nor decoding.
    plans = {"open": "x", "demux": "xxx", "decode": "x-x", "seek": "x-x-"}
    for error in errors():
        planned = [error if mark == "x" else None for mark in plans[at]]
        with failing(monkeypatch, at, planned):
            if at == "seek":
                (picture,) = source.read(0, {"rgb": [5]}).frames["rgb"]
                assert read_number(picture) == 20
                continue
            with pytest.raises(DamagedError, match=r"a\.mp4 cannot be decoded"):
                source.read(0, {"rgb": [5]})
    assert read_number(source.read(0, {"rgb": [5]}).frames["rgb"][0]) == 20


@pytest.mark.parametrize("convert", ["FrameScaler", "upright_rgb"])
def test_pixels_that_cannot_be_converted_cost_that_video(tmp_path, convert):
    class Frame:
        """Its format is known, and that is all."""

        width, height, colorspace, side_data = 64, 48, 5, {}
        format = av.VideoFormat("yuv420p")

        def __init__(self, error: Exception) -> None:
            self._error = error

        def to_ndarray(self, **options: Any) -> Any:
            raise self._error

    class Reformatter:
        def reformat(self, frame: Frame, *args: Any, **options: Any) -> Any:
            return frame.to_ndarray()

    scaler = picture.FrameScaler(32)
    scaler._reformatter = Reformatter()  # type: ignore[assignment]
    converter: Any = scaler if convert == "FrameScaler" else picture.upright_rgb
    for error in errors():
        with pytest.raises(video.VideoError, match="decode_error: pixels of kind yuv420p: "):
            converter(Frame(error))


def test_our_own_faults_are_not_blamed_on_files(tmp_path, monkeypatch):
    numbered(tmp_path / "a.mp4")

    def fault(*args: Any) -> Any:
        raise ZeroDivisionError("a fault of the program")

    monkeypatch.setattr(video, "resample", fault)
    with pytest.raises(ZeroDivisionError), VideoReader(tmp_path / "a.mp4") as reader:
        list(reader.nominal_frames(30.0))


# What files are called, and what they are.


def test_any_name_is_the_file_of_that_name(tmp_path, monkeypatch):
    for shift, name in enumerate(NAMES):
        numbered(tmp_path / "videos" / name, shift)
    shutil.copyfile(tmp_path / "videos/a:b.mp4", tmp_path / "videos" / os.fsdecode(b"latin\xfc.mp4"))
    monkeypatch.chdir(tmp_path / "videos")  # paths relative to here begin with the name
    store = prepared(Path(), tmp_path / "store")
    numbers = {name: NAMES.index(name) for name in NAMES} | {r"latin\xfc.mp4": NAMES.index("a:b.mp4")}
    assert list(store.videos) == sorted(numbers)
    assert quarantine(tmp_path / "store") == {}
    source = RawVideos(Path())
    assert list(source.videos) == sorted(numbers)
    assert source.refused == {}
    for row, name in enumerate(sorted(numbers)):
        assert read_number(source.read(row, {"rgb": [2]}).frames["rgb"][0]) == numbers[name] + 8
        assert Path(name).parent.name == (store.labels[row] or "")


def test_reported_name(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(shared_data / "reported/colon")
    assert list(prepared(Path(), tmp_path / "store").videos) == ["12:30:05.mp4"]


def test_a_list_names_any_file(tmp_path, monkeypatch):
    for name in ("12:30:05.mp4", "new\nline.mp4"):
        numbered(tmp_path / name)
    lines = ["path,label", "12:30:05.mp4,a", '"new\nline.mp4",b', f"{'z' * 300}.mp4,c"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    store = prepared(Path("list.csv"), tmp_path / "store")
    assert dict(zip(store.videos, store.labels, strict=True)) == {"12:30:05.mp4": "a", "new\nline.mp4": "b"}


def test_only_the_file_itself_is_opened(tmp_path):
    """A playlist could name any file; a pipe would hold the run up; a device has no end."""
    numbered(tmp_path / "good.mp4")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    (tmp_path / "hls.ts").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zeros.mp4").symlink_to("/dev/zero")
    (tmp_path / "circle.mp4").symlink_to("circle.mp4")
    playlist = "a playlist: the files that it names are not opened"
    other = "a folder, a pipe or a device, not a file"
    source = RawVideos(tmp_path)
    assert list(source.videos) == ["good.mp4"]
    assert source.refused == {
        "concat.mp4": f"unreadable: {playlist}",
        "hls.ts": f"unreadable: {playlist}",
        "pipe.mp4": f"unreadable: {other}",
        "zeros.mp4": f"unreadable: {other}",
        "circle.mp4": "unreadable: Too many levels of symbolic links",
    }


def test_bytes_of_a_name_are_found_again(tmp_path):
    """An escape stands for its byte, unless a file is called just so."""
    for name in (b"a\xfc.mp4", rb"b\xfc.mp4", b"c\xc3\xbc\xff.mp4", b"d\xff/e\xfe.mp4"):
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name)
        text = as_text(os.fsdecode(name))
        text.encode()
        assert file_path(tmp_path, text).read_bytes() == name


def test_titles_need_not_be_text(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "A" * 21
        stream = container.add_stream("mpeg4", rate=30)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number, 64, 48), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert data.count(b"A" * 21) == 1
    path.write_bytes(data.replace(b"A" * 21, "Übung in Latin-1, ÄÖÜ".encode("latin-1")))
    assert RawVideos(tmp_path).num_videos == 1


# Times and sizes.


def test_last_frame_does_not_stay_for_days(tmp_path):
    """A broken length of the last frame would fill the disk with copies of it."""
    path = numbered(tmp_path / "a.mp4")
    data = path.read_bytes().replace(b"edts", b"free")  # the edit list, which would end the video earlier
    table = data.index(b"stts") + 4
    assert struct.unpack_from(">3I", data, table) == (0, 1, NUM_FRAMES)  # version, entries, frames of the first
    path.write_bytes(data[: table + 12] + struct.pack(">I", 1 << 30) + data[table + 16 :])
    with VideoReader(path) as reader:
        shown = reader.nominal_frames(30.0)
        # Since none of the times can be, each frame stays for the usual 1/25 s.
        assert len(list(itertools.islice(shown, 10 * NUM_FRAMES))) == -(-NUM_FRAMES * 30 // 25)


def test_head_that_promises_years_is_not_believed(tmp_path):
    path = numbered(tmp_path / "a.mkv")
    data = path.read_bytes()
    seconds = data.index(b"\x44\x89\x88") + 3  # the element of the length, 8 bytes
    assert struct.unpack_from(">d", data, seconds) == (800.0,)
    path.write_bytes(data[:seconds] + struct.pack(">d", 1e15) + data[seconds + 8 :])
    assert RawVideos(tmp_path).info(0).num_frames == NUM_FRAMES // 4


def test_change_of_size_costs_that_video(tmp_path):
    """Frames of two sizes make no clip."""
    wide = [numbered_picture(number, 96, 48) for number in range(30)]
    small = [numbered_picture(number, 64, 32) for number in range(30)]
    for name in ("a", "b", "c"):
        write_video(tmp_path / f"{name}.mp4", wide)
    parts = [write_video(tmp_path / f"parts/{i}.webm", p, codec="libvpx") for i, p in enumerate((wide, small))]
    with av.open(str(tmp_path / "d.webm"), "w") as out:
        stream: Any = None
        for number, part in enumerate(parts):
            with av.open(str(part)) as container:
                stream = stream or out.add_stream_from_template(container.streams.video[0])
                for packet in container.demux(container.streams.video[0]):
                    if packet.pts is not None:
                        packet.pts = packet.dts = packet.pts + 1000 * number
                        packet.stream = stream
                        out.mux(packet)
    shutil.rmtree(tmp_path / "parts")
    source = RawVideos(tmp_path)
    assert list(source.videos) == ["a.mp4", "b.mp4", "c.mp4", "d.webm"]
    config = PlanConfig(ClipSpec(4, 8), ClipSpec(4, 8), 24, grid=4, motion_threshold=0.0, motion_input="difference")
    loader = ClipLoader(source, config, batch_size=4, seed=0, num_threads=2)
    damaged = np.concatenate([batch.video_ids[batch.damaged] for batch in loader.iterate(0, 6)])
    loader.close()
    assert set(damaged.tolist()) == {3}


def test_index_of_a_file_is_none_where_its_packets_break(tmp_path, monkeypatch):
    path = numbered(tmp_path / "a.mp4")
    assert read_index(path, 30.0) is not None
    for error in errors():
        with failing(monkeypatch, "demux", [error]):
            assert read_index(path, 30.0) is None
    assert decode_nominal(path, 30.0, [0]).num_source_frames == NUM_FRAMES

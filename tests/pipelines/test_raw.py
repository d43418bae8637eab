"""Raw videos: the frames meant, whatever the container; one decode a video; the same clips as from a store."""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import cv2
import numpy as np
import pytest
import torch
from av.stream import Disposition
from clip_store import run_graph
from made_videos import looped, numbered_picture, read_number

from modist_pipelines.clips.graph import Kind
from modist_pipelines.clips.loader import ClipLoader
from modist_pipelines.errors import DamagedError, DataError
from modist_pipelines.plan import Augmentation, ClipPlan, ClipSpec, PlanConfig
from modist_pipelines.video import frames as frame_decoder
from modist_pipelines.video import write
from modist_pipelines.video.engine import DaliEngine, make_engine, video_graph
from modist_pipelines.video.frames import decode_nominal, torchcodec_loads
from modist_pipelines.video.index import read_index
from modist_pipelines.video.picture import RULES, UPRIGHT, Orientation, upright_rgb
from modist_pipelines.video.raw import RawVideos
from modist_pipelines.video.reader import VideoError, VideoReader
from modist_pipelines.video.seeking import decode_by_seeking

pytestmark = pytest.mark.slow

FPS = 30.0
CONFIG = PlanConfig(ClipSpec(2, 8), ClipSpec(3, 4), 24, grid=4, motion_threshold=0.0, motion_input="difference")


def write_video(path: Path, num_frames: int, codec: str = "libx264", gop: int = 12, b_frames: int = 2) -> None:
    """A video of 64 x 48 pixels whose frame i is a bar at column 2i, on a texture: no two frames alike."""
    texture = np.random.default_rng(0).integers(0, 90, (12, 16, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    pictures = np.repeat(texture[None], num_frames, 0)
    for number, picture in enumerate(pictures):
        picture[:, 2 * number % 62 : 2 * number % 62 + 2] = 255 - number
    options = {"g": str(gop)}
    if codec == "libx264":
        options |= {"crf": "12", "bf": str(b_frames), "sc_threshold": "0"}
    write.write_video(path, pictures, FPS, codec=codec, options=options)


def sequential(path: Path) -> list[np.ndarray]:
    """All nominal frames, by the reader that a store is made with."""
    frames = []
    with VideoReader(path) as reader:
        try:
            frames.extend(upright_rgb(frame, reader.pixel_aspect) for _, frame in reader.nominal_frames(FPS))
        except VideoError as error:
            if error.reason != "too_short":
                raise
    return frames


@pytest.fixture(params=["seeking", "torchcodec", "pyav"])
def decoder(request, monkeypatch) -> str:
    """Who decodes where it can: the others are for files that do not list their key frames."""
    if request.param == "torchcodec" and not torchcodec_loads():
        pytest.skip("torchcodec or its FFmpeg libraries are not installed")
    monkeypatch.setattr(frame_decoder, "torchcodec_loads", lambda: request.param == "torchcodec")
    if request.param != "seeking":
        without_lists(monkeypatch)
    return request.param


def without_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no file listed its key frames."""
    monkeypatch.setattr(frame_decoder, "decode_by_seeking", lambda *args: None)


def assert_frames_are_those_meant(path: Path, wanted: list[int], expected: list[np.ndarray] | None = None) -> None:
    expected = expected or sequential(path)
    decoded = decode_nominal(path, FPS, wanted)
    for tick in wanted:
        picture = decoded.pixels[tick].astype(int)
        place = min(tick, len(expected) - 1)
        assert picture.shape == expected[place].shape
        # Decoders convert colours a little differently, but no neighbour may be nearer.
        near = range(max(0, place - 6), min(place + 7, len(expected)))
        distances = {other: np.abs(picture - expected[other]).mean() for other in near}
        nearest = min(distances, key=distances.__getitem__)
        assert distances[place] < 6, f"{path.name}: {tick} is another picture"
        assert distances[place] <= distances[nearest] + 0.05, f"{path.name}: {tick} is {nearest}"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_made_videos(tmp_path, decoder, suffix):
    path = tmp_path / f"v.{suffix}"
    write_video(path, 61)
    assert_frames_are_those_meant(path, [0, 1, 7, 11, 12, 13, 35, 36, 60])
    assert_frames_are_those_meant(path, [23])
    assert_frames_are_those_meant(path, [59, 75])  # beyond the end: the last one


def test_decoders_agree_on_the_stream(tmp_path, decoder):
    """The second is brighter, larger and the default one: FFmpeg calls it the best."""
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=30) for _ in range(2)]
        for stream, width in zip(streams, (64, 96), strict=True):
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
            stream.disposition = Disposition.default if width == 96 else Disposition(0)
        for number in range(40):
            for stream, width, base in zip(streams, (64, 96), (0, 90), strict=True):
                picture = np.random.default_rng(number).integers(base, base + 90, (48, width, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    expected = sequential(path)
    for tick, picture in decode_nominal(path, FPS, [0, 9, 30]).pixels.items():
        assert abs(picture.mean() - expected[tick].mean()) < 5


def test_every_real_video_that_decodes(shared_data, monkeypatch):
    """Variable frame rate, B-frames, rotation, open groups, broken files; AVI and others without time stamps."""
    folders = ("odd", "misc", "hmdb51_samples")
    files = [path for folder in folders for path in sorted((shared_data / folder).rglob("*")) if path.is_file()]
    num_checked = 0
    for path in files:
        try:
            expected = sequential(path)
        except VideoError as error:
            if error.reason != "decode_error":  # of a file that is mostly damaged, some frames can be had
                with pytest.raises(VideoError):
                    decode_nominal(path, FPS, [0])
            continue
        wanted = sorted(set(np.random.default_rng(1).integers(0, len(expected), 3).tolist()))
        assert_frames_are_those_meant(path, wanted, expected)
        with monkeypatch.context() as patch:
            without_lists(patch)
            assert_frames_are_those_meant(path, wanted, expected)
        num_checked += 1
    assert num_checked > 20


def test_index_counts_what_the_decoder_decodes(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_decoder, "torchcodec_loads", lambda: False)
    without_lists(monkeypatch)
    path = tmp_path / "v.mp4"
    write_video(path, 61, gop=12, b_frames=0)
    index = read_index(path, FPS)
    assert index is not None
    assert index.keys.tolist() == [0, 12, 24, 36, 48, 60]
    for wanted, num in (([0], 1), ([11], 12), ([12], 1), ([3, 5, 26], 6 + 3), ([60], 1), ([47, 49], 12 + 2)):
        assert index.num_decoded(wanted) == num
        assert decode_nominal(path, FPS, wanted).num_decoded == num


def test_read_gives_frames_and_differences_of_one_decode(tmp_path, decoder):
    write_video(tmp_path / "v.mp4", 61)
    expected = sequential(tmp_path / "v.mp4")
    source = RawVideos(tmp_path)
    assert source.info(0).num_frames == 16  # nominal frames 0, 4 .. 60
    reading = source.read(0, {"rgb": [2, 3], "difference": [0, 3]})
    for frame, picture in zip([2, 3], reading.frames["rgb"], strict=True):
        np.testing.assert_allclose(picture.astype(int), expected[4 * frame], atol=4)
    weights = np.array([0.299, 0.587, 0.114])
    for tick, beside, map_ in zip([0, 12], [1, 11], reading.frames["difference"], strict=True):
        gray = [(expected[t] @ weights).round() for t in (tick, beside)]
        np.testing.assert_allclose(map_[..., 0].astype(int), np.abs(gray[0] - gray[1]), atol=6)
    size = (tmp_path / "v.mp4").stat().st_size
    # Nominal frames 0, 1, 8, 11 and 12 are five of the file's 61.
    assert reading.bytes_needed == round(size * 5 / 61)
    assert reading.frames_decoded >= 5
    assert reading.bytes_read < size / 2 if decoder == "seeking" else reading.bytes_read == size


LONG = 600  # seconds


@pytest.fixture(scope="module", params=[("mp4", 48, 0), ("mp4", 250, 2), ("mkv", 250, 2), ("webm", 128, 0)])
def long_video(request, tmp_path_factory) -> tuple[Path, int]:
    """Ten minutes whose frames say their numbers, and how many are in the part that comes again and again."""
    suffix, gop, b_frames = request.param
    folder = tmp_path_factory.mktemp("long")
    noise = np.random.default_rng(0).integers(0, 30, (3 * 250, 32, 64, 1), np.uint8)
    pictures = [numbered_picture(number % 256, 64, 32) + grain for number, grain in enumerate(noise)]
    options = {"g": str(gop), "bf": str(b_frames), "sc_threshold": "0", "crf": "20"}
    vp9 = {"g": str(gop), "deadline": "realtime", "cpu-used": "8"}
    is_h264 = suffix != "webm"
    once = folder / f"once.{'mov' if is_h264 else 'webm'}"
    codec = "libx264" if is_h264 else "libvpx-vp9"
    write.write_video(once, pictures, FPS, codec=codec, options=options if is_h264 else vp9)
    return looped(folder / f"long.{suffix}", once, LONG), len(pictures)


def read_so_far() -> int:
    """Bytes that this thread has read, by the kernel's count."""
    text = Path("/proc/thread-self/io").read_text(encoding="ascii")
    return int(text.split("rchar:")[1].split()[0])


def test_a_long_file_is_read_where_it_is_wanted(long_video, monkeypatch):
    """No more frames than from the key frames on, and no more bytes than theirs and the file's list."""
    path, period = long_video
    source = RawVideos(path.parent, names=[path.name])
    index = read_index(path, FPS)
    assert index is not None
    size = path.stat().st_size
    monkeypatch.setattr(frame_decoder, "read_index", None)  # it would read the file through
    decoded = bound = 0
    for start in np.random.default_rng(3).integers(0, int(LONG * FPS) // 4 - 40, 12):
        wanted = [int(start) + 2 * step for step in range(8)]  # one visual clip: 8 frames, 8 ticks apart
        before = read_so_far()
        reading = source.read(0, {"rgb": wanted})
        num_read = read_so_far() - before
        numbers = [4 * frame for frame in wanted]
        assert [read_number(picture) for picture in reading.frames["rgb"]] == [n % period % 256 for n in numbers]
        decoded += reading.frames_decoded
        bound += index.num_decoded(numbers)
        assert reading.bytes_needed < reading.bytes_read < size / 20
        assert num_read < size / 4
    assert decoded <= 1.5 * bound


def test_a_file_whose_list_does_not_tell_all(tmp_path, monkeypatch):
    """In fragments, or with a pause that is a broken time stamp: the frames are those of a store all the same."""
    pictures = [numbered_picture(number) for number in range(80)]
    options = {"g": "8", "bf": "0"}
    write.write_video(tmp_path / "once.mov", pictures[:40], FPS, codec="libx264", options=options)
    looped(tmp_path / "fragments.mp4", tmp_path / "once.mov", 4, movflags="frag_keyframe+empty_moov")
    for suffix in ("mp4", "mkv"):
        times = [33 * number + 100_000 * (number > 30) for number in range(80)]
        paused = tmp_path / f"paused.{suffix}"
        write.write_video(paused, pictures, FPS, codec="libx264", times=times, options=options)
    monkeypatch.setattr(frame_decoder, "torchcodec_loads", lambda: False)
    for path in sorted(tmp_path.glob("*.m[pk][4v]")):
        assert decode_by_seeking(path, FPS, [0, 50], RULES) is None, path.name
        expected = [read_number(picture) for picture in sequential(path)]
        found = decode_nominal(path, FPS, [0, 20, 50, 70]).pixels
        assert [read_number(found[tick]) for tick in found] == [expected[tick] for tick in found], path.name


def test_pixels_and_jpegs_give_the_same_clips():
    """The graph crops decoded frames as it crops JPEGs; only the outermost pixels may see their neighbours."""
    plans = [
        ClipPlan(np.zeros(1, int), (3, 5, 30, 41), flip, 1.2, 0.9, 0.7, blur_sigma=blur)
        for flip in (False, True)
        for blur in (0.0, 1.3)
    ]
    kinds: list[tuple[Kind, int]] = [("visual", 3), ("motion", 1)]
    for kind, channels in kinds:
        noise = np.random.default_rng(2).integers(0, 255, (48, 64, channels), np.uint8)
        smooth = cv2.GaussianBlur(noise, (0, 0), 3).reshape(48, 64, channels)
        jpeg = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
        flag = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
        decoded = np.asarray(cv2.imdecode(jpeg, flag)).reshape(48, 64, channels)[..., ::-1]
        frames = [np.ascontiguousarray(decoded)] * len(plans)
        by_jpeg = run_graph(kind, [jpeg.ravel()] * len(plans), plans, crop_size=24)
        by_pixels = run_graph(kind, frames, plans, crop_size=24, pixels="rgb")
        inner = np.s_[:, :, 7:-7, 7:-7]
        np.testing.assert_allclose(by_pixels[inner], by_jpeg[inner], atol=0.03)
        np.testing.assert_allclose(by_pixels, by_jpeg, atol=0.3)


def test_loader_draws_from_raw_videos(tmp_path):
    for name in ("a", "b", "c", "d"):
        write_video(tmp_path / f"{name}.mp4", 61)
    source = RawVideos(tmp_path)
    augmentation = Augmentation((1.0, 1.0), (4 / 3, 4 / 3), flip=0, color=0, gray=0, blur=0, mean=0.0, std=1.0)
    loader = ClipLoader(source, replace(CONFIG, augmentation=augmentation), batch_size=2, seed=0, num_threads=2)
    batches = list(loader.iterate(0, 4))
    loader.close()
    for batch in batches:
        assert batch.counters["frames_used"] == 2 * 2 * (2 + 3)
        assert batch.counters["frames_decoded"] > batch.counters["frames_used"] / 2
        assert 0 < batch.counters["bytes_needed"] < batch.counters["bytes_read"]
        assert batch.motion_query is not None
        assert not batch.damaged.any()
        # The bar moves by 2 columns a frame: bright where it came and went, black elsewhere.
        assert (batch.motion_query.amax(dim=(1, 2, 3, 4)) > 0.1).all()
        assert batch.motion_query.median() < 0.02
    again = ClipLoader(RawVideos(tmp_path), replace(CONFIG, augmentation=augmentation), batch_size=2, seed=0)
    (third,) = again.iterate(3, 4)
    again.close()
    assert torch.equal(third.visual_query, batches[3].visual_query)


def test_video_that_breaks_after_opening_costs_itself(tmp_path, caplog):
    for name in ("a", "b", "c", "d"):
        write_video(tmp_path / f"{name}.mp4", 61)
    source = RawVideos(tmp_path)
    (tmp_path / "c.mp4").write_bytes(b"no longer a video")
    loader = ClipLoader(source, CONFIG, batch_size=4, seed=0)
    with caplog.at_level(logging.WARNING, "modist"):
        (batch,) = loader.iterate(0, 1)
    loader.close()
    assert batch.video_ids[batch.damaged].tolist() == [2]
    assert "c.mp4 is damaged and left out of epoch 0" in caplog.text
    with pytest.raises(DamagedError, match=r"c\.mp4 cannot be decoded"):
        source.read(2, {"rgb": [0]})


def test_files_that_are_no_use_are_counted_and_named(tmp_path, caplog):
    write_video(tmp_path / "good.mp4", 40)
    write_video(tmp_path / "short.mp4", 5)
    (tmp_path / "text.mp4").write_text("hello")
    with caplog.at_level(logging.WARNING, "modist"):
        source = RawVideos(tmp_path)
    assert list(source.videos) == ["good.mp4"]
    assert "2 of 3 files" in caplog.text
    assert "short.mp4 (5 frames on the nominal clock)" in caplog.text
    assert source.fingerprint() == RawVideos(tmp_path).fingerprint()
    write_video(tmp_path / "other.mp4", 40)
    assert source.fingerprint() != RawVideos(tmp_path).fingerprint()


def test_edges_need_a_store(tmp_path):
    write_video(tmp_path / "v.mp4", 40)
    with pytest.raises(DataError, match=r"edges is not to be had from raw videos.*modist prepare"):
        ClipLoader(RawVideos(tmp_path), replace(CONFIG, motion_input="edges"), batch_size=1, seed=0)
    with pytest.raises(DataError, match=r"--clips\.motion-threshold cannot choose"):
        ClipLoader(RawVideos(tmp_path), replace(CONFIG, motion_threshold=0.1), batch_size=1, seed=0)


def test_engine_graph_decodes_the_frames_asked(tmp_path):
    """On the CPU, where DALI decodes VP9; on a GPU it is the same graph on another device."""
    path = tmp_path / "v.webm"
    write_video(path, 40, codec="libvpx-vp9")
    expected = sequential(path)
    decode = DaliEngine(torch.device("cpu"))
    wanted = [0, 3, 17, 39]
    for _ in range(2):
        frames = decode(path, wanted).numpy().astype(int)
        for picture, number in zip(frames, wanted, strict=True):
            distances = [np.abs(picture - other).mean() for other in expected]
            assert int(np.argmin(distances)) == number
    with pytest.raises(VideoError, match="decode_error: by the video engine"):
        decode(path, [40])
    with pytest.raises(VideoError, match="No such file"):
        decode(tmp_path / "gone.webm", [0])
    assert decode(path, [1]).shape == (1, 48, 64, 3)  # a graph that failed is replaced


def test_engine_graph_for_a_gpu_is_wired():
    serialized = video_graph("gpu", None).serialize()
    assert b"decoders__Video" in serialized
    assert b"mixed" in serialized


def test_engine_that_seeks(tmp_path, monkeypatch):
    """With a stand-in for the library: the frames asked for, turned, and as many counted as from the key frames on."""

    class VideoDecoder:
        def __init__(self, source, **options):
            if not isinstance(source, str):
                raise ValueError("no video")
            with VideoReader(Path(source)) as reader:
                self.frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in reader.decoded_frames()]

        def get_frames_at(self, numbers):
            return SimpleNamespace(data=torch.stack([self.frames[number] for number in numbers]))

    module = ModuleType("torchcodec.decoders")
    module.VideoDecoder = VideoDecoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    pictures = [numbered_picture(number) for number in range(61)]
    path = write.write_video(tmp_path / "v.mp4", pictures, FPS, options={"g": "12", "bf": "0"})
    engine = make_engine("torchcodec", torch.device("cpu"))
    for orientation, back in ((UPRIGHT, UPRIGHT), (Orientation(True, True, False), Orientation(True, False, True))):
        found = decode_nominal(path, FPS, [3, 5, 26], engine, orientation=orientation)
        assert [read_number(back.upright(picture.numpy())) for picture in found.pixels.values()] == [3, 5, 26]
        assert found.num_decoded == 6 + 3
    with pytest.raises(VideoError, match="decode_error: by torchcodec"):
        engine(path, [61])
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(DataError, match=r"--loader\.video-engine torchcodec: it does not load"):
        make_engine("torchcodec", torch.device("cpu"))


def block_means(frame) -> torch.Tensor:
    """Of 8 × 8 pixels: at an edge of colour the engines upsample chroma in another way than a CPU's decoders."""
    return torch.nn.functional.avg_pool2d(torch.as_tensor(frame).cpu().float().permute(2, 0, 1), 8)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["dali", "torchcodec"])
def test_gpu_reads_what_the_cpu_reads(tmp_path, engine):
    if engine == "torchcodec" and not torchcodec_loads():
        pytest.skip("torchcodec or its FFmpeg libraries are not installed")
    write_video(tmp_path / "v.mp4", 61)
    wanted = {"rgb": [0, 2, 9], "difference": [0, 4]}
    cpu, gpu = (RawVideos(tmp_path, device=at, engine=engine).read(0, wanted) for at in ("cpu", "cuda:0"))
    for kind in wanted:
        for one, other in zip(cpu.frames[kind], gpu.frames[kind], strict=True):
            assert (block_means(one) - block_means(other)).abs().mean() < 3

"""The right frame at the right time, upright, from every kind of file."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from made_videos import moving_pictures, numbered_picture, read_number, write_video

from modist_pipelines.video.picture import FrameScaler, scaled_size
from modist_pipelines.video.reader import VideoError, VideoReader, resample


def shown_numbers(path: Path, fps: float = 30.0) -> list[int]:
    scaler = FrameScaler(32)
    with VideoReader(path) as reader:
        return [read_number(scaler(frame)) for _, frame in reader.nominal_frames(fps)]


def test_constant_rate_equal_to_the_clock(tmp_path):
    path = write_video(tmp_path / "a.mp4", [numbered_picture(i) for i in range(50)])
    assert shown_numbers(path) == list(range(50))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("source_fps", [24, 25, 50])
def test_constant_rate_other_than_the_clock(tmp_path, suffix, source_fps):
    num = 40
    path = write_video(tmp_path / f"a.{suffix}", [numbered_picture(i) for i in range(num)], fps=source_fps)
    # Exact: picture j is on show over [j / source_fps, (j + 1) / source_fps).
    num_nominal = -(-num * 30 // source_fps)
    assert shown_numbers(path) == [i * source_fps // 30 for i in range(num_nominal)]


def test_millisecond_time_stamps_do_not_repeat_frames(tmp_path):
    # 33, 67, 100 ms: the second is later than 2 / 30 s only through rounding.
    path = write_video(tmp_path / "a.mkv", [numbered_picture(i) for i in range(60)], fps=30)
    assert shown_numbers(path) == list(range(60))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_rate(tmp_path, suffix):
    gaps = np.random.default_rng(0).choice([10, 33, 40, 100, 210], size=59)
    times = [0, *np.cumsum(gaps).tolist()]
    path = write_video(tmp_path / f"a.{suffix}", [numbered_picture(i) for i in range(60)], times=times)
    shown = shown_numbers(path)
    for i, number in enumerate(shown):
        on_show = max(j for j, time in enumerate(times) if time <= i * 1000 / 30 + 0.5)
        assert number == on_show, f"nominal frame {i}"
    assert shown[-1] == 59


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_avi_with_b_frames_keeps_order_and_length(tmp_path, codec, b_frames):
    pictures = [numbered_picture(i) for i in range(80)]
    path = write_video(tmp_path / "a.avi", pictures, codec=codec, b_frames=b_frames)
    assert shown_numbers(path) == list(range(80))


def test_real_avi_with_b_frames_keeps_its_length(shared_data):
    with VideoReader(shared_data / "ucf101_6/Archery/v_Archery_g03_c01.avi") as reader:
        numbers = [number for number, _ in reader.nominal_frames(25.0)]
    assert reader.source_fps == 25
    assert numbers == list(range(150))


def test_clock_starts_at_the_first_frame(tmp_path):
    times = [5000 + 40 * i for i in range(30)]
    path = write_video(tmp_path / "a.mkv", [numbered_picture(i) for i in range(30)], times=times)
    assert shown_numbers(path)[:4] == [0, 0, 1, 2]


def test_resample_against_brute_force():
    rng = np.random.default_rng(1)
    times = np.concatenate([[0], np.cumsum(rng.integers(1, 200, size=100))])
    frames = [(Fraction(int(t), 1000), Fraction(1, 25), j) for j, t in enumerate(times)]
    for fps in (7, 30, 60):
        end = int(times[-1]) + 40
        expected = [int(np.flatnonzero(times * fps <= i * 1000)[-1]) for i in range(-(-end * fps // 1000))]
        assert [j for _, j in resample(iter(frames), fps, Fraction(0))] == expected


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_rotation_of_the_display_matrix(tmp_path, matrix):
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48], picture[:32, 48:], picture[32:, :48] = 240, 160, 80  # four corners, four grays
    path = write_video(tmp_path / "a.mp4", [picture] * 3)
    identity = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    a, b, c, d = (0x10000 * value for value in matrix)
    data = path.read_bytes()
    position = data.index(identity, data.index(b"tkhd"))
    rotated = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data[:position] + rotated + data[position + len(identity) :])

    with av.open(str(path)) as container:
        upright = FrameScaler(64)(next(container.decode(video=0)))
    # ISO 14496-12: pixel (x, y) is shown at (a x + c y, b x + d y), up to a shift.
    a, b, c, d = matrix
    y, x = np.mgrid[:64, :96]
    shown_x, shown_y = a * x + c * y, b * x + d * y
    expected = np.zeros((np.ptp(shown_y) + 1, np.ptp(shown_x) + 1), np.uint8)
    expected[shown_y - shown_y.min(), shown_x - shown_x.min()] = picture[y, x, 0]
    assert upright.shape[:2] == expected.shape
    assert np.abs(upright[..., 0].astype(int) - expected).mean() < 4


def test_real_rotated_videos_are_upright(shared_data):
    sizes = {}
    for angle in (0, 90, 180, 270):
        with av.open(str(shared_data / f"odd/decord_video_{angle}.mov")) as container:
            sizes[angle] = FrameScaler(160)(next(container.decode(video=0))).shape[:2]
    assert sizes == {0: (160, 284), 90: (284, 160), 180: (160, 284), 270: (284, 160)}


def test_scaling_follows_area_averages(tmp_path):
    pictures = moving_pictures(3, 1, height=128, width=192)
    path = write_video(tmp_path / "a.mkv", pictures, codec="ffv1")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        scaled = FrameScaler(48)(frame)
        original = frame.to_ndarray(format="bgr24")
    expected = cv2.resize(original, (72, 48), interpolation=cv2.INTER_AREA)
    assert scaled.shape == expected.shape
    assert np.abs(scaled.astype(int) - expected).mean() < 1.5


def test_scaled_size():
    assert scaled_size(320, 240, 128) == (171, 128)
    assert scaled_size(24, 18, 128) == (171, 128)
    with pytest.raises(VideoError, match="extreme_shape"):
        scaled_size(1000, 64, 128)


def reason_of(path: Path) -> str:
    with pytest.raises(VideoError) as caught, VideoReader(path) as reader:
        for _ in reader.nominal_frames(30.0):
            pass
    return caught.value.reason


def test_reasons(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "zero.mp4").write_bytes(b"")
    assert reason_of(tmp_path / "text.mp4") == "unreadable"
    assert reason_of(tmp_path / "zero.mp4") == "unreadable"
    assert reason_of(tmp_path / "absent.mp4") == "unreadable"
    pictures = [numbered_picture(i) for i in range(16)]
    assert reason_of(write_video(tmp_path / "short.mp4", pictures[:15])) == "too_short"
    assert len(shown_numbers(write_video(tmp_path / "enough.mp4", pictures))) == 16
    # 16 frames that pass in 0.13 s are four on the clock.
    assert reason_of(write_video(tmp_path / "fast.mp4", pictures, fps=120)) == "too_short"


def test_sound_only(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux([*stream.encode(frame), *stream.encode()])
    assert reason_of(path) == "no_video_stream"


def test_damage_is_counted_and_frames_keep_their_times(shared_data):
    with VideoReader(shared_data / "odd/decord_corrupted.mp4") as reader:
        numbers = [(number, frame.pts) for number, frame in reader.nominal_frames(10.0)]
    assert reader.num_source_frames == 49
    assert reader.num_damaged > 0
    # Source frame 30 is lost; frame 29 stays on show, and those after keep their places.
    assert [(pts or 0) // 1024 for _, pts in numbers] == [*range(30), 29, *range(31, 50)]

"""AVI and MPEG-TS entered at key frames: every frame is that of decoding from the first, and few are decoded for it."""

from pathlib import Path

import numpy as np
import pytest
from made_videos import moving_pictures

from modist_pipelines.video import frames
from modist_pipelines.video.frames import decode_nominal
from modist_pipelines.video.picture import RULES
from modist_pipelines.video.reader import VideoError
from modist_pipelines.video.seeking import decode_by_seeking
from modist_pipelines.video.write import write_video

pytestmark = pytest.mark.slow

FPS, NUM = 30.0, 60
AVI = {"mpeg4": {"g": "8"}, "mpeg4 with B frames": {"g": "8", "bf": "2"}, "mjpeg": {"strict": "-1"}}
TS = {
    "libx264": {"g": "8", "bf": "2"},
    "libx264, open groups": {"g": "8", "bf": "2", "x264-params": "open-gop=1"},
    "mpeg2video": {"g": "8", "bf": "2"},
    "libx265": {"x265-params": "keyint=8:open-gop=1:log-level=none"},
}


def sequential(path: Path, num: int) -> dict[int, np.ndarray]:
    return frames._decode_sequentially(path, FPS, range(num), RULES).pixels


def made(path: Path, codec: str, options: dict[str, str]) -> Path:
    return write_video(path, moving_pictures(NUM, 2), FPS, codec=codec.split(",")[0].split()[0], options=options)


@pytest.mark.parametrize("name", AVI)
def test_every_frame_of_an_avi(tmp_path, name):
    path = made(tmp_path / "a.avi", name, AVI[name])
    expected = sequential(path, NUM + 3)
    decoded = []
    for number in range(NUM + 3):  # beyond the end: the last one
        found = decode_by_seeking(path, FPS, [number], RULES)
        assert found is not None
        np.testing.assert_array_equal(found.pixels[number], expected[number])
        decoded.append(found.num_decoded)
    # From a key frame, or the one before it, and the first frame of the file, by which the others are counted.
    assert max(decoded) <= 2 * 8 + 4
    several = decode_by_seeking(path, FPS, [3, 4, 30, 59], RULES)
    assert several is not None
    assert several.num_decoded < NUM * 0.75
    for number, picture in several.pixels.items():
        np.testing.assert_array_equal(picture, expected[number])


def test_an_avi_that_does_not_tell_is_decoded_from_its_first_frame(tmp_path):
    whole = made(tmp_path / "a.avi", "mpeg4", AVI["mpeg4"])
    path = tmp_path / "no-index.avi"
    data = whole.read_bytes()
    path.write_bytes(data[: data.rindex(b"idx1")])
    h264 = made(tmp_path / "h264.avi", "libx264", {"g": "8", "bf": "0"})
    for each in (path, h264):
        expected = sequential(each, NUM)
        assert decode_by_seeking(each, FPS, [40], RULES) is None
        np.testing.assert_array_equal(decode_nominal(each, FPS, [40]).pixels[40], expected[40])


def test_a_wrong_key_in_the_list_is_not_believed(tmp_path):
    """A list that calls every frame a key frame: what comes of entering there is no frame of the video."""
    path = made(tmp_path / "a.avi", "mpeg4", {"g": "8", "bf": "2"})
    data = bytearray(path.read_bytes())
    place = data.rindex(b"idx1") + 8
    while place + 16 <= len(data) and data[place : place + 4] == b"00dc":
        data[place + 4] |= 0x10
        place += 16
    path.write_bytes(data)
    expected = sequential(path, NUM)
    for number in range(0, NUM, 3):
        np.testing.assert_array_equal(decode_nominal(path, FPS, [number]).pixels[number], expected[number])


@pytest.mark.parametrize("name", TS)
def test_every_frame_of_a_transport_stream(tmp_path, name, monkeypatch):
    path = made(tmp_path / "a.ts", name, TS[name])
    expected = sequential(path, NUM + 3)
    monkeypatch.setattr(frames, "_decode_sequentially", None)
    decoded = []
    for number in range(NUM + 3):
        found = decode_nominal(path, FPS, [number])
        np.testing.assert_array_equal(found.pixels[number], expected[number])
        decoded.append(found.num_decoded)
    assert max(decoded) <= 2 * 8 + 4


def test_real_avi_files(shared_data):
    """With B frames, packed ones, none; Xvid and others."""
    rng = np.random.default_rng(0)
    files = sorted(shared_data.rglob("*.avi"))[::12]
    for path in files:
        try:
            expected = sequential(path, 300)
        except VideoError:
            continue
        wanted = sorted({int(number) for number in rng.integers(0, 300, 3)})
        for number, picture in decode_nominal(path, FPS, wanted).pixels.items():
            np.testing.assert_array_equal(picture, expected[number], err_msg=f"{path.name}: {number}")
    assert len(files) > 20

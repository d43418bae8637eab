"""Media files and lists that were broken at random: no run ends, nothing hangs, and every file is accounted for.

python tests/pipelines/test_fuzz.py 2000    # so many of each, in place of the few of the test
"""

import contextlib
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import prepare_parts
import pyarrow.parquet as pq
import pytest
from made_videos import moving_pictures, write_video

from modist_pipelines.errors import DamagedError, DataError
from modist_pipelines.lists.listing import read_listing
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.video.raw import RawVideos

pytestmark = pytest.mark.slow

NUM_MEDIA, NUM_LISTS = 60, 400
NAMES = ("a.mp4", "b.mp4", "sp ace.mp4", "com,ma.mp4", "cls/k.mp4", "é.mp4")
LISTS = (
    "a.mp4,x\nb.mp4,y\ncom,ma.mp4,z\n",
    "a.mp4 90 3\nsp ace.mp4 80 4\nb.mp4 1 2\n",
    "path\tlabel\tsplit\na.mp4\tx\ttrain\nb.mp4\ty\ttest\n",
    'path,label\n"com,ma.mp4","say ""x"""\na.mp4,y\n',
    "label,youtube_id,time_start,time_end,split\nx,a,1,2,train\ny,b,3,4,val\n",
    '[{"id": "1", "template": "Holding [x]"}, {"id": "a.mp4", "label": "é"}]',
    '{"a.mp4": {"annotations": {"label": "x", "segment": [0.0, 1.0]}, "subset": "train"}}',
    '{"path": "a.mp4", "label": "x"}\n{"path": "b.mp4", "label": 3}\n',
    "cls/v_cls_g01_c01.avi 1\ncls/v_cls_g02_c02.avi 1\n",
    "videoid,contentUrl,duration,page_dir,name\na,u,PT1S,p,é\n",
)
PIECES = (
    *(b"\0", b"\n", b'"', b",", b"\t", b"\xff\xfe", b"\r", b"-1", b"[" * 50, b"1e999", b"%s", b"../", b"\\"),
    b"\xef\xbb\xbf",
)


def mutated(data: bytes, draw: random.Random, pieces: Sequence[bytes]) -> bytes:
    """Some of: bytes replaced, ranges cut, doubled, zeroed or moved, integers made extreme, the end cut off."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if not out:
            break
        at = draw.choice((draw.randrange(len(out)), min(len(out) - 1, int(draw.expovariate(1 / 64)))))
        length = min(len(out) - at, draw.choice((1, 4, 32, 1024)))
        kind = draw.randrange(7)
        if kind == 0:
            out[at] = draw.randrange(256)
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = out[at : at + length]
        elif kind == 3:
            out[at : at + length] = bytes(length)
        elif kind == 4:
            out[at : at + 4] = draw.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1"))
        elif kind == 5:
            out[at:at] = draw.choice(pieces)
        else:
            del out[draw.randrange(len(out)) :]
    return bytes(out)


def make_media(folder: Path, num: int) -> list[str]:
    """Mutants of small videos in several containers and codecs, and one that is whole."""
    pictures = moving_pictures(24, 2, height=48, width=64)
    kinds = {"mp4": "libx264", "mkv": "libx264", "avi": "mpeg4", "ts": "libx264", "mov": "mpeg4", "mpg": "mpeg2video"}
    whole = {}
    for suffix, codec in kinds.items():
        whole[suffix] = write_video(folder / f"whole.{suffix}", pictures, codec=codec).read_bytes()
    draw = random.Random(0)
    names = [f"whole.{suffix}" for suffix in kinds]
    for number in range(num):
        suffix = draw.choice(list(kinds))
        names.append(f"{number:05d}.{suffix}")
        (folder / names[-1]).write_bytes(mutated(whole[suffix], draw, [whole[other][:64] for other in kinds]))
    return names


def fuzz_media(folder: Path, num: int) -> Counter[str]:
    """What became of them. Fails where the run ends, or a file is lost."""
    names = make_media(folder / "in", num)
    config = PrepareConfig(folder / "in", folder / "out", short_side=32, workers=2, video_timeout=60.0)
    prepare(config, prepare_parts.opencv_edges)
    kept = pq.read_table(folder / "out/index.parquet")["video"].to_pylist()
    rows = pq.read_table(folder / "out/quarantine.parquet").to_pylist()
    assert sorted([*kept, *(row["video"] for row in rows)]) == sorted(names)
    assert {name for name in names if name.startswith("whole.")} <= set(kept)
    assert all(row["detail"] for row in rows)
    by_vectors = replace(config, out=folder / "codec", flow="codec")
    prepare(by_vectors, prepare_parts.opencv_edges)
    vectors = pq.read_table(by_vectors.out / "index.parquet")["video"].to_pylist()
    out = pq.read_table(by_vectors.out / "quarantine.parquet")["video"].to_pylist()
    assert sorted([*vectors, *out]) == sorted(names)
    assert {name for name in names if name.startswith("whole.")} <= set(vectors) <= set(kept)
    source = RawVideos(folder / "in")
    assert sorted([*source.videos, *source.refused]) == sorted(names)
    for video in range(len(source.videos)):
        with contextlib.suppress(DamagedError):
            source.read(video, {"rgb": [1, 4]})
    return Counter(row["reason"] for row in rows) + Counter(kept=len(kept))


def fuzz_lists(folder: Path, num: int) -> Counter[str]:
    """What became of them. Fails where one raises what a command does not catch, or takes long."""
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    draw = random.Random(1)
    outcomes: Counter[str] = Counter()
    encodings = ("utf-8", "utf-8", "utf-16", "cp1252", "gb18030")
    for _ in range(num):
        data = mutated(draw.choice(LISTS).encode(draw.choice(encodings)), draw, PIECES)
        (folder / "list").write_bytes(data)
        began = time.process_time()
        try:
            listing = read_listing(folder / "list", folder)
        except DataError as error:
            is_paragraph = "\n" not in str(error).strip()
            outcomes["refused" if is_paragraph else f"refused in several lines: {data!r}"] += 1
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} ({error}) of {data!r}") from error
        else:
            assert set(listing.videos) == set(listing.labels)
            outcomes["read"] += 1
        assert time.process_time() - began < 5, data
    assert outcomes.keys() <= {"refused", "read"}
    return outcomes


@pytest.mark.parametrize(("fuzz", "num"), [(fuzz_media, NUM_MEDIA), (fuzz_lists, NUM_LISTS)])
def test_nothing_ends_the_run(fuzz: Callable[[Path, int], Counter[str]], num: int, tmp_path: Path) -> None:
    outcomes = fuzz(tmp_path, num)
    assert len(outcomes) > 1, "the mutations change nothing"


if __name__ == "__main__":
    logging.getLogger("modist").setLevel(logging.ERROR)
    for fuzz in (fuzz_lists, fuzz_media):
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            outcomes = fuzz(Path(folder), int(sys.argv[1]))
            print(f"{fuzz.__name__}: {dict(outcomes.most_common())} in {time.monotonic() - began:.0f} s")

"""What the tests of preparing hand to worker processes, which import it by name: it has to be light."""

import errno
import os
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.prepare.workers import share_of_workers, worker_number

_BORDERS = {"replicate": cv2.BORDER_REPLICATE, "zero": cv2.BORDER_CONSTANT}


def opencv_edges(flows, *, gain, border, clamp):
    """Flow edges by OpenCV, float64."""
    edges, means = zip(*(_edges(flow, gain, border, clamp) for flow in flows), strict=True)
    return np.stack(edges), means


def _edges(flow, gain, border, clamp):
    magnitude = np.hypot(flow[..., 0].astype(np.float64), flow[..., 1])
    gradients = [cv2.Sobel(magnitude, cv2.CV_64F, dx, 1 - dx, ksize=3, borderType=_BORDERS[border]) for dx in (0, 1)]
    edges = np.minimum(np.hypot(*gradients) * gain, clamp)
    return np.rint(edges / clamp * 255).astype(np.uint8), float(edges.mean())


_asked = 0.0


def slow_edges(flows, *, gain, border, clamp):
    """Take ten times as long as all else that the process did since it was asked last, on a machine of any speed."""
    global _asked
    if _asked:  # not for what comes before the first video
        time.sleep(10 * (time.perf_counter() - _asked))
    edges = opencv_edges(flows, gain=gain, border=border, clamp=clamp)
    _asked = time.perf_counter()
    return edges


def held_edges(flows, *, gain, border, clamp):
    """Come back no more once as many shards are done as the main process asked for; it is killed meanwhile."""
    folder, num_done = os.environ["HOLD_AFTER"].rsplit(":", 1)
    while len(list(Path(folder, ".partial").glob("?????.parquet"))) >= int(num_done):
        time.sleep(0.005)  # the worker ends with its parent
    return opencv_edges(flows, gain=gain, border=border, clamp=clamp)


def fatal_for_wide_videos(flows, *, gain, border, clamp):
    """Ends the process as a decoder with a bug would, for videos more than twice as wide as high."""
    if flows.shape[2] > 2 * flows.shape[1]:
        os.kill(os.getpid(), signal.SIGSEGV)
    return opencv_edges(flows, gain=gain, border=border, clamp=clamp)


def endless_for_wide_videos(flows, *, gain, border, clamp):
    """Never comes back, as a decoder may not, for videos more than twice as wide as high."""
    while flows.shape[2] > 2 * flows.shape[1]:
        time.sleep(60)
    return opencv_edges(flows, gain=gain, border=border, clamp=clamp)


def fatal_for_parents_of_wide_videos(flows, *, gain, border, clamp):
    """Ends the process that started this one, as a machine that runs out of memory may."""
    if flows.shape[2] > 2 * flows.shape[1]:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)  # this process ends with it
    return opencv_edges(flows, gain=gain, border=border, clamp=clamp)


def unhurried_edges(flows, *, gain, border, clamp):
    """Take a third of a second for each frame."""
    time.sleep(len(flows) / 3)
    return opencv_edges(flows, gain=gain, border=border, clamp=clamp)


def full_disk_edges(flows, *, gain, border, clamp):
    """A disk that is full when a worker writes, but not for the estimate, whose workers write nothing."""
    if _is_writing():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return opencv_edges(flows, gain=gain, border=border, clamp=clamp)


def _is_writing() -> bool:
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "_add":
            return True
        frame = frame.f_back
    return False


def faulty_edges(flows, *, gain, border, clamp):
    raise ZeroDivisionError("a fault of the program, not of a video")


def tell_number(task, report):
    """Report which worker this is, once for a task that ends its first worker."""
    if isinstance(task, Path) and not task.exists():
        task.touch()
        os._exit(1)
    report(worker_number())
    time.sleep(0.2)  # so that the others get tasks


def tell_gpus(task, report):
    """Report which GPUs this process sees."""
    time.sleep(0.5)  # so that the others get tasks
    report(os.environ.get("CUDA_VISIBLE_DEVICES"))


def tell_share(task, report):
    """Report how many workers there are for each busy one: at once, or once they are as many as the task says."""
    while task is not None and share_of_workers() < task:
        time.sleep(0.005)  # the worker ends with its parent
    report(share_of_workers())


if __name__ == "__main__":
    folder, out = map(Path, sys.argv[1:3])
    os.environ["HOLD_AFTER"] = f"{out}:{sys.argv[3]}"
    engine = "ray" if "ray" in sys.argv[4:] else "processes"
    from prepare_parts import held_edges  # Ray's processes cannot import it from __main__

    prepare(PrepareConfig(folder, out, short_side=32, workers=2, engine=engine), held_edges)

"""How many threads and how many steps ahead, where the user leaves it to the machine."""

import os

import torch

from modist_pipelines.clips.graph import MotionDecoding

_MAX_PREFETCH = 4
# A core decodes some 3400 motion maps of 256 x 341 a second, so eight do 850 samples of 32; a GPU that decodes
# these too has 24 000 JPEGs a second for 48 of a sample, 500 (docs/throughput-model.md, docs/gpu.md).
_THREADS_FOR_MOTION = 8
# Batches ready ahead may take this share of the memory that is free when the run begins.
_MEMORY_SHARE = 0.1


def default_threads() -> int:
    """This process's share of the cores of its machine, and no more than it may run on."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(len(os.sched_getaffinity(0)), (os.cpu_count() or 1) // processes))


def decodes_motion_on_host(asked: MotionDecoding, num_threads: int) -> bool:
    """Whether a GPU leaves the motion maps' JPEGs to the host: as asked, or where it has the threads for it."""
    return asked == "host" or (asked == "auto" and num_threads >= _THREADS_FOR_MOTION)


def default_prefetch(batch_bytes: int, device: torch.device) -> int:
    """Steps made ready ahead: 4, or as few as fit into a tenth of the free memory, but 1.

    Args:
        batch_bytes: the clips of one step of this process.
        device: where the clips lie.
    """
    if device.type == "cuda":
        free, sharing = torch.cuda.mem_get_info(device)[0], 1
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(_MAX_PREFETCH, int(free * _MEMORY_SHARE / sharing / batch_bytes)))

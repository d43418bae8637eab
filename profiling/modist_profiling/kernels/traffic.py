"""Bytes that must move at least (every input read once, every output written once), and those that do."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence


def loss_compulsory_bytes(
    *, modalities: int, batch: int, num: int, dim: int, query_bytes: int = 4, key_bytes: int = 4
) -> int:
    """Of queue_infonce, forward and backward together.

    Banks (fp16) and ids, queries, keys and the ids of the batch in; four results of each term and the gradient out.
    The mean negatives that forward leaves for backward are the algorithm's own and do not count.
    """
    terms = 4 if modalities == 2 else 1
    vectors = modalities * batch * dim
    inputs = modalities * num * dim * 2 + num * 4 + batch * 4 + vectors * (query_bytes + key_bytes)
    outputs = terms * batch * 4 * 4 + vectors * query_bytes
    return inputs + outputs


def edges_compulsory_bytes(frames: int, height: int, width: int, input_bytes: int, output_bytes: int) -> int:
    """Of flow_edges: two components of flow in, one edge map and a score out."""
    return frames * (height * width * (2 * input_bytes + output_bytes) + 4)


def counted_in_interpreter(count: Callable[..., Sequence[float]], *sizes: int) -> Sequence[float]:
    """What `count`, a module's function, finds of `sizes` in a process of its own, where Triton interprets."""
    code = f"import json; from {count.__module__} import {count.__name__} as count; print(json.dumps(count{sizes}))"
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)

"""Bytes that must move at least: every input read once, every output written once."""


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

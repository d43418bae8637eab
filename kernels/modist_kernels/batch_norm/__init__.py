"""Batch norm over groups of a batch, with the addition and the ReLU behind it; `op.py` has the public call."""

"""Named spans, samplers and benchmarks: where the time of a step goes."""

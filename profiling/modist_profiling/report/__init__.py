"""One HTML page about a training run, or about two side by side; it needs no network to be read."""

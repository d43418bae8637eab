"""modist-fast."""

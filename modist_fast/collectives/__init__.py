"""Exchanges between processes beyond those that torch has ready."""

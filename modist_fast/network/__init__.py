"""Processes on several machines: what they say where they do not meet, or lose one another."""

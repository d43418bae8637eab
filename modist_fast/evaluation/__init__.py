"""Evaluation: labelled videos, views of them, frozen features, and what is read off these."""

"""Scores and verdicts of a run's images, and of image files."""

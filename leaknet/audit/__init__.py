"""Leak controls: how well file facts and thumbnails alone identify the generator."""

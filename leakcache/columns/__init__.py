"""Columns of a cache: what is computed for an image, one file per kind and one table."""

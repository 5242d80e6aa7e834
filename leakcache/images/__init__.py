"""Decoding, cropping, resizing and canonical forms of image files."""

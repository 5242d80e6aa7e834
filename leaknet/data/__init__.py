"""Columns of a cache as tensors: splits, embeddings, training data."""

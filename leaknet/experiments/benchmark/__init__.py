"""Compared methods on the same folds: the paper's Table 1."""

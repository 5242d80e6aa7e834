"""Small folds of images for the compared methods."""

from __future__ import annotations

import pytest
from tiny_baselines import baseline_images


@pytest.fixture(scope="module")
def images(request, tmp_path_factory):
    """Images of each fold: a module's COUNTS of each class, with its OPTIONS."""
    counts = getattr(request.module, "COUNTS", {"train": 2, "val": 1, "test": 1})
    options = getattr(request.module, "OPTIONS", {})
    folder = tmp_path_factory.mktemp("images")
    return {fold: baseline_images(folder, fold, count, **options) for fold, count in counts.items()}

"""The runtime of the encoder: kept in the cache, and never mixed with another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_data import SMALL

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheStale
from leakcache.store.build import build_cache, fill_columns
from leaknet.scoring.encode_files import encode_files, load_encoder

pytest.importorskip("onnxruntime")

COLUMNS = ["z0", "activation_statistics"]


def test_runtimes_share_no_column_and_a_run_scores_with_its_own(
    image_folder: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    index, home = read_index(image_folder), tmp_path / "c"
    torch, onnx = (Encoder.load(str(tiny_folder), runtime=name) for name in ("torch", "onnx"))
    first = build_cache(index, torch, home / "closed", preprocessing=SMALL, columns=COLUMNS).cache
    second = build_cache(index, onnx, home / "again", preprocessing=SMALL, columns=["z0"]).cache
    assert second.manifest.encoding.options.endswith("--runtime onnx")
    assert first.manifest.encoding.fingerprint != second.manifest.encoding.fingerprint
    assert not second.has("activation_statistics")
    with pytest.raises(CacheStale, match="was built with runtime torch against onnx"):
        build_cache(index, onnx, home / "closed", preprocessing=SMALL, columns=COLUMNS)

    fill_columns(second, COLUMNS)
    rows = np.arange(len(second))
    for name in COLUMNS:
        values = [cache.column(name, rows).astype(np.float64) for cache in (first, second)]
        assert np.abs(values[0] - values[1]).max() < 1e-2 * np.abs(values[0]).max()

    encoding = second.manifest.encoding
    encoder = load_encoder(encoding)
    assert encoder.runtime == encoding.encoder().runtime == "onnx"
    paths = [image_folder / str(path) for path in second.paths[:2]]
    for row, file in enumerate(encode_files(encoder, encoding, paths, columns=COLUMNS)):
        for name in COLUMNS:
            assert np.array_equal(
                file.columns[name][0], second.column(name, rows[row : row + 1])[0]
            )

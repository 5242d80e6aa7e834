"""Columns that stay on disk give what columns in memory give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cli import leak
from leakcache.processes import memory_limit, set_memory_limit
from leakcache.store.cache import Cache
from leaknet.data.columns import CPU, ShuffledWindows, StoredColumn, TrainingData, load_fold
from leaknet.model.inference import run_split
from leaknet.training.epoch import Stepper, TrainingImages, train_epoch
from tests.leaknet.tiny import CLASSES, fit_tiny, tiny_cache, tiny_config, tiny_latents, tiny_model

IMAGES = 138


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return tiny_cache(tmp_path_factory.mktemp("cache") / "closed", views=2, extra=IMAGES - 48)


@pytest.fixture(autouse=True)
def unlimited() -> Iterator[None]:
    yield
    set_memory_limit(None)


def stored(cache: Cache) -> StoredColumn:
    set_memory_limit(1000)
    column = load_fold(cache, "train", ["z0"]).columns["z0"]
    assert isinstance(column, StoredColumn)
    return column


def test_what_does_not_fit_is_read_batch_by_batch(cache: Cache) -> None:
    held = load_fold(cache, "train", ["z0"])
    assert isinstance(held.columns["z0"], torch.Tensor)
    column = stored(cache)
    images = load_fold(cache, "train", ["z0"])
    assert column.shape == held.z0.shape
    assert images.shape == held.shape
    batches = [batch.z0 for batch in images.batches(20)]
    assert max(map(len, batches)) == 20
    assert torch.equal(torch.cat(batches), held.z0)
    model = tiny_model()
    first, second = (run_split(model, split) for split in (held, images))
    assert torch.equal(first.logits, second.logits)


def test_windows_have_every_image_once_in_another_order_each_epoch(cache: Cache) -> None:
    whole, column = load_fold(cache, "train", ["z0"]).z0, stored(cache)
    windows, rows = ShuffledWindows(column, 40), torch.arange(IMAGES)
    orders = []
    for epoch in range(2):
        found = []
        for window in windows.epoch(rows, torch.Generator().manual_seed(epoch)):
            for batch in window.split(16):
                views = torch.randint(2, (len(batch),))
                assert torch.equal(windows[batch, views], whole[batch, views])
            found.append(window)
        assert len(found) > 2
        assert torch.equal(torch.cat(found).sort().values, rows)
        orders.append(torch.cat(found))
    assert not torch.equal(*orders)
    assert torch.equal(windows[rows, rows % 2], whole[rows, rows % 2])


def test_windows_mix_files(cache: Cache) -> None:
    """A batch has images of several files, wherever they lie in the fold."""
    windows = ShuffledWindows(stored(cache), 96)
    window = next(windows.epoch(torch.arange(IMAGES), torch.Generator().manual_seed(0)))
    files = torch.from_numpy(windows._shards)[window[:16]]
    assert len(files.unique()) >= 3


def test_an_epoch_on_disk_trains_on_the_same_images(cache: Cache) -> None:
    stored(cache)
    data = TrainingData.load(cache, tiny_config(), CPU)
    branch = tiny_latents()
    images = TrainingImages.of(branch, data, CLASSES)
    done = []
    stepper = Stepper(branch, tiny_config().train, CPU)
    losses = [train_epoch(stepper, images, epoch, done.append) for epoch in range(1, 9)]
    assert sum(done) == 8 * IMAGES
    assert losses[-1] < losses[0]


def test_a_run_is_trained_within_the_limit(cache: Cache, tmp_path: Path) -> None:
    stored(cache)
    data = TrainingData.load(cache, tiny_config(), CPU)
    result = fit_tiny(tmp_path / "run", "train.epochs=2", data=data)
    assert len(result.epochs) == 2


@pytest.mark.parametrize(("given", "size"), [("4GiB", 2**32), ("500MB", 500e6), ("1.5 gib", 1.5e9)])
def test_the_option_sets_the_limit(given: str, size: float) -> None:
    CliRunner().invoke(leak, ["train", "--memory", given, "--preset", "none such"])
    assert memory_limit() == pytest.approx(size, rel=0.08)


def test_a_size_that_is_none_is_refused() -> None:
    found = CliRunner().invoke(leak, ["train", "--memory", "much"])
    assert found.exit_code == 2
    assert "--memory much is no size: give one such as 4GiB" in found.output

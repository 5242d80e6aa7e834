"""Our model and the two leak controls behind the calls of compared methods."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_baselines import CLASSES, baseline_images

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import RunError
from leakcache.store.build import build_cache
from leaknet.baselines.base import BaselineImages, BaselineOptions
from leaknet.baselines.own_rows import Metadata, Ours, OursPaper, Thumbnail, moments
from leaknet.config import RunConfig, preset
from leaknet.metrics import closed_values
from leaknet.model.run_record import CacheIdentity
from leaknet.training.train import train
from tests.leaknet.small_run import LABELS, SETTINGS
from tests.leaknet.tiny import silent
from tests.tiny_data import SMALL, save, tiny_image, tiny_model, write_images


class Tiny(Ours):
    """Our row with a network for tests."""

    @property
    def config(self) -> RunConfig:
        return RunConfig().with_overrides([*SETTINGS, f"train.seed={self.options.seed}"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    root = tmp_path_factory.mktemp("ours")
    write_images(root / "images", LABELS, 16)
    encoder = Encoder.load(str(save(tiny_model(), root / "vae")))
    index = read_index(root / "images")
    return build_cache(index, encoder, root / "cache" / "closed", preprocessing=SMALL).cache


def folds(cache):
    return {fold: BaselineImages.of(cache, cache.rows(fold)) for fold in ("train", "val", "test")}


def test_our_row_is_our_training(cache, tmp_path):
    images = folds(cache)
    baseline = Tiny(cache.classes, BaselineOptions(folder=tmp_path)).fit(
        images["train"], images["val"]
    )
    config = RunConfig().with_overrides(SETTINGS)
    run = train(config, cache, tmp_path / "same", device="cpu", track=silent).run
    same = run.load_model(torch.device("cpu"))
    for (name, a), b in zip(baseline._model.named_parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    e = baseline.embed(images["test"])
    assert e.logits.shape == (len(images["test"]), 2)
    assert baseline.parameters == sum(p.numel() for p in same.parameters())


def test_moments_are_those_of_the_cache(cache):
    found, kept = moments(folds(cache)["train"].latents), cache.moments("train")
    for mine, theirs in ((found.latent, kept.latent), (found.dct, kept.dct)):
        assert mine.count == theirs.count
        np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(mine.m2, theirs.m2, rtol=1e-3)


def test_a_finished_run_is_not_trained_again(cache, tmp_path):
    images = folds(cache)
    options = BaselineOptions(folder=tmp_path)
    Tiny(cache.classes, options).fit(images["train"], images["val"])
    weights = tmp_path / "run" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    Tiny(cache.classes, options).fit(images["train"], images["val"])
    assert weights.stat().st_mtime_ns == written


def test_without_a_folder_nothing_is_left(cache):
    images = folds(cache)
    baseline = Tiny(cache.classes, BaselineOptions()).fit(images["train"], images["val"])
    assert np.isfinite(baseline.embed(images["val"]).vectors).all()


def test_the_rows_have_the_presets_they_name():
    for kind, name in ((Ours, "best"), (OursPaper, "paper")):
        config = kind(LABELS, BaselineOptions(seed=3, epochs=2)).config
        assert config == preset(name).with_overrides(["train.seed=3", "train.epochs=2"])


def test_images_without_latents_say_so(tmp_path):
    images = baseline_images(tmp_path, "train", 2)
    with pytest.raises(RunError, match="no cached latents"):
        Ours(CLASSES, BaselineOptions()).fit(images, images)


def test_rows_of_a_table_stay_together(cache):
    images = folds(cache)["train"]
    chosen = images.take(np.array([3, 1]))
    assert chosen.paths.tolist() == images.paths[[3, 1]].tolist()
    assert chosen.originals.files[0] == images.originals.files[3]
    assert torch.equal(chosen.latents.z0, images.latents.z0[[3, 1]])
    assert chosen.latents.hashes.tolist() == chosen.hashes.tolist()
    mask = np.array(images.labels == "bob")
    assert set(images.take(mask).labels.tolist()) == {"bob"}
    assert CacheIdentity.of(cache).training_sha256  # the cache itself is unharmed


@pytest.fixture
def sized(tmp_path):
    """Images whose file size in pixels, and nothing else, says who made them."""
    images = {fold: baseline_images(tmp_path, fold, 8) for fold in ("train", "val", "test")}
    for number, table in enumerate(images.values()):
        for place, path in enumerate(table.originals.files):
            side = 64 + 8 * CLASSES.index(str(table.labels[place]))
            tiny_image(100 * number + place % 8, (64, 64)).resize((side, side)).save(path)
        hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in table.originals.files]
        originals = replace(table.originals, hashes=tuple(hashes))
        images[str(table.folds[0])] = replace(table, originals=originals, hashes=np.array(hashes))
    return images


def test_metadata_find_what_the_file_says(sized):
    baseline = Metadata(CLASSES, BaselineOptions()).fit(sized["train"], sized["val"])
    e = baseline.embed(sized["test"])
    assert closed_values(e.logits, e.targets)["top1"][0] == 1
    np.testing.assert_allclose(np.exp(e.logits).sum(axis=1), 1, rtol=1e-5)
    assert baseline.parameters == 0


def test_thumbnails_find_nothing_there(sized):
    baseline = Thumbnail(CLASSES, BaselineOptions()).fit(sized["train"], sized["val"])
    e = baseline.embed(sized["test"])
    assert e.vectors.shape == (24, 192)
    # The images are the same for every class and differ by image only.
    assert closed_values(e.logits, e.targets)["top1"][0] < 0.7


@pytest.mark.parametrize("kind", [Metadata, Thumbnail])
def test_a_control_says_the_same_of_an_image_in_any_company(sized, kind):
    baseline = kind(CLASSES, BaselineOptions()).fit(sized["train"], sized["val"])
    whole, alone = baseline.embed(sized["test"]), baseline.embed(sized["test"].take(np.array([5])))
    np.testing.assert_array_equal(whole.vectors[5:6], alone.vectors)
    np.testing.assert_array_equal(whole.logits[5:6], alone.logits)


def test_files_that_are_all_alike_leave_metadata_with_nothing(tmp_path):
    images = baseline_images(tmp_path, "train", 3)
    same = replace(images.originals, files=(images.originals.files[0],) * 9)
    same = replace(same, hashes=(same.hashes[0],) * 9)
    e = (
        Metadata(CLASSES, BaselineOptions())
        .fit(replace(images, originals=same), images)
        .embed(images.take(np.array([0])))
    )
    assert e.vectors.tolist() == [[0.0]]
    np.testing.assert_allclose(e.logits, np.log(1 / 3), rtol=1e-4)

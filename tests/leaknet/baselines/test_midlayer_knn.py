"""Nearest neighbours in the middle of a frozen transformer."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sklearn.neighbors import NearestNeighbors
from tiny_baselines import CLASSES

from leakcache.errors import TrainingError, WeightsError
from leakcache.store.columns import RESIZED
from leaknet.baselines.base import BaselineOptions
from leaknet.baselines.frozen_transformers import ClipNeighbours, DinoNeighbours, MidLayerNeighbours
from leaknet.baselines.trained_network import cropped, standardised
from leaknet.baselines.weights import count

COUNTS = {"train": 4, "val": 2, "test": 2}


class Small(MidLayerNeighbours):
    name = "small-midlayer-knn"
    model = "test_vit"
    size = 160


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), folder / "test_vit.safetensors")
    return folder


@pytest.fixture(scope="module")
def baseline(weights, images):
    return Small(CLASSES, BaselineOptions(weights=weights)).fit(images["train"], images["val"])


def test_the_vectors_are_the_middle_blocks_class_tokens(baseline, weights, images):
    whole = timm.create_model("test_vit")
    whole.load_state_dict(load_file(weights / "test_vit.safetensors"))
    views = cropped(images["test"].pixels(RESIZED)[:][:, 0], 160, None)
    settings = timm.get_pretrained_cfg("test_vit")
    x = standardised(views, settings.mean, settings.std)
    caught = []
    block = whole.eval().blocks[len(whole.blocks) // 2 - 1]
    block.register_forward_hook(lambda module, given, found: caught.append(found[:, 0]))
    with torch.no_grad():
        whole(x)
    token = caught[0] / caught[0].norm(dim=1, keepdim=True)
    np.testing.assert_allclose(baseline.embed(images["test"]).vectors, token, atol=1e-5)


def test_scores_are_mean_cosines_of_each_classes_nearest(baseline, images):
    known, found = baseline.vectors(images["train"]), baseline.vectors(images["test"])
    scores = baseline.similarities(found, 3)
    for number, label in enumerate(CLASSES):
        own = known[images["train"].labels == label]
        near = NearestNeighbors(n_neighbors=3, metric="cosine").fit(own)
        expected = 1 - near.kneighbors(found)[0].mean(axis=1)
        np.testing.assert_allclose(scores[:, number], expected, atol=1e-5)


def test_a_row_does_not_depend_on_the_batch_and_a_state_is_enough(baseline, weights, images):
    test = images["test"]
    whole = baseline.embed(test)
    again = Small(CLASSES, BaselineOptions(weights=weights)).restore(baseline.state())
    alone = again.embed(test.take(np.array([3])))
    np.testing.assert_allclose(alone.logits, whole.logits[3:4], atol=1e-5)


def test_folds_may_be_tiny_and_classes_absent(weights, images):
    train, none = images["train"], images["val"].take(np.arange(0))
    baseline = Small(CLASSES, BaselineOptions(weights=weights))
    baseline.fit(train.take(train.labels != "bob"), none)
    assert (baseline.embed(images["test"]).logits[:, 1] == -1).all()
    assert len(baseline.embed(none)) == 0
    with pytest.raises(TrainingError, match="the training fold is empty"):
        baseline.fit(none, none)


def test_only_the_blocks_that_are_read_count():
    # Class token and 197 positions; CLIP normalises before its blocks too.
    for kind, embedded in ((ClipNeighbours, 768 * 198 + 2 * 768), (DinoNeighbours, 768 * 198)):
        with torch.device("meta"):
            network = timm.create_model(kind.model, num_classes=0)
        half = sum(p.numel() for block in network.blocks[:6] for p in block.parameters())
        network.prune_intermediate_layers([5], prune_norm=True)
        patches = sum(p.numel() for p in network.patch_embed.parameters())
        assert half == 6 * 7_087_872
        assert count(network) == half + patches + embedded


def test_absent_weights_are_refused_with_the_cure(tmp_path):
    with pytest.raises(WeightsError, match=r"vit_base_patch16_224\.dino"):
        DinoNeighbours(CLASSES, BaselineOptions(weights=tmp_path))

"""Embeddings depend on the image and the model alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.features.evaluation_noise import evaluation_noise
from leaknet.model.inference import embed
from tests.leaknet.tiny import CLASSES, tiny_model, tiny_split


def assert_close(one: Embeddings, other: Embeddings) -> None:
    for name in ("vectors", "logits", "attention"):
        assert abs(getattr(one, name) - getattr(other, name)).max() < 1e-4


@pytest.mark.parametrize("views", [1, 2])
def test_rows_do_not_depend_on_batch_size_or_order(views: int) -> None:
    model, split = tiny_model(), tiny_split(20, "test", views=views)
    whole = embed(model, split)
    for batch_size in (1, 7):
        assert_close(embed(model, split, batch_size=batch_size), whole)
    order = np.random.default_rng(0).permutation(20)
    assert_close(embed(model, split.take(order), batch_size=3), whole.take(order))
    assert_close(embed(model, split.take(order[:1])), whole.take(order[:1]))


def test_a_row_is_the_models_output_under_the_images_own_noise() -> None:
    model, split = tiny_model("latents.noise_seed=5").eval(), tiny_split(4, "test")
    noise = evaluation_noise(5, split.hashes.tolist(), (0, 5, 10), split.shape)
    branch = model.latents
    assert branch is not None
    with torch.no_grad():
        output = branch.attribute(branch.features(split.z0[:, 0], torch.from_numpy(noise)))
    table = embed(model, split)
    np.testing.assert_allclose(table.vectors, output.embedding.numpy(), atol=1e-5)
    np.testing.assert_allclose(table.logits, output.logits.numpy(), atol=1e-4)


def test_views_are_averaged_in_the_embedding() -> None:
    model, split = (
        tiny_model("latents.timesteps=0", "latents.noise=false"),
        tiny_split(5, "test", views=3),
    )
    each = [
        embed(model, split.with_column("z0", split.z0[:, view : view + 1])) for view in range(3)
    ]
    table = embed(model, split)
    np.testing.assert_allclose(
        table.vectors, np.mean([one.vectors for one in each], axis=0), atol=1e-5
    )
    assert not np.allclose(table.logits, np.mean([one.logits for one in each], axis=0), atol=1e-7)


def test_the_table_says_what_the_split_and_the_model_say() -> None:
    model, split = tiny_model("train.seed=9"), tiny_split(6, "val")
    done: list[int] = []
    table = embed(model.train(), split, run="r", batch_size=4, advance=done.append)
    assert model.training
    assert done == [4, 2]
    assert (table.run, table.seed, table.classes) == ("r", 9, CLASSES)
    assert (table.paths == split.paths).all()
    assert (table.hashes == split.hashes).all()
    np.testing.assert_allclose(table.attention.sum(axis=1), 1, rtol=1e-5)


def test_open_images_may_have_any_label_and_none_may_come() -> None:
    model, split = tiny_model(), tiny_split(3, "open")
    unknown = replace(split, labels=np.array(["eve"] * 3))
    assert (embed(model, unknown).targets == -1).all()
    assert len(embed(model, tiny_split(0, "test"))) == 0


def test_an_output_that_is_not_finite_is_refused() -> None:
    model, split = tiny_model(), tiny_split(3, "test")
    z0 = split.z0.clone()
    z0[1] = float("inf")
    with pytest.raises(ScoringError, match="test/0/1"):
        embed(model, split.with_column("z0", z0))

"""OCC-CLIP on a small CLIP: learned words, harder negatives, refusals."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from tiny_baselines import CLASSES
from tiny_clip import save_clip

from leakcache.errors import TrainingError, WeightsError
from leaknet.baselines import frozen_transformers
from leaknet.baselines.base import BaselineOptions
from leaknet.baselines.frozen_transformers import (
    CONTEXT,
    REPOSITORY,
    WORDS,
    Bicubic,
    OccClip,
    _Shots,
)
from leaknet.baselines.weights import count, transformers

COUNTS = {"train": 8, "val": 1, "test": 4}
OPTIONS = {"side": 32}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    save_clip(folder / REPOSITORY.split("/")[1])
    return folder


def built(weights, **options):
    return OccClip(CLASSES, BaselineOptions(weights=weights, **options))


def test_prompts_are_start_context_word_end(weights):
    baseline = built(weights)
    tokens = baseline.clip.tokens(WORDS, CONTEXT)
    assert tokens.shape == (2, 1 + CONTEXT + len("target") + 1)
    start, end = tokens[0, 0], tokens[0, -1]
    assert (tokens[:, 0] == start).all()
    assert (tokens[0, 1 : CONTEXT + 1] == tokens[0, 1]).all()
    assert tokens[1, 1 + CONTEXT + len("other")] == end


def test_the_words_own_embeddings_as_context_change_nothing(weights):
    clip = built(weights).clip
    tokens = clip.tokens(WORDS, CONTEXT)
    table = clip.network.text_model.embeddings.token_embedding.weight
    context = table[tokens[0, 1]].expand(CONTEXT, -1)
    pooled = clip.network.text_model(input_ids=tokens).pooler_output
    expected = torch.nn.functional.normalize(clip.network.text_projection(pooled), dim=-1)
    torch.testing.assert_close(clip.prompts(tokens, context), expected)
    assert not torch.allclose(clip.prompts(tokens, 0 * context), expected, atol=1e-3)


def test_image_vectors_are_clips_own(weights, images):
    baseline = built(weights)
    found = baseline.vectors(images["test"])
    pixels = images["test"].pixels(Bicubic(32))[:][:, 0]
    mean, deviation = np.array(frozen_transformers.MEAN), np.array(frozen_transformers.DEVIATION)
    x = torch.from_numpy(((pixels / 255 - mean) / deviation).transpose(0, 3, 1, 2)).float()
    with torch.no_grad():
        output = baseline.clip.network.get_image_features(pixel_values=x)
    expected = output if isinstance(output, torch.Tensor) else output.pooler_output
    expected = expected / expected.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_step_makes_others_look_more_like_the_generator(weights, images):
    baseline = built(weights)
    x = torch.randn(4, 3, 32, 32, generator=torch.manual_seed(0))
    context = baseline._start(0)
    every = torch.zeros(4, dtype=torch.bool)
    harder = baseline._adversarial(x.clone(), context)
    with torch.no_grad():
        before = baseline._loss(baseline.clip.images(x), every, context)
        after = baseline._loss(harder, every, context)
    # `every` asks for the generator's own prompt: its loss falls when others come nearer.
    assert after < before


def test_only_the_words_are_learned_and_they_learn(weights, images, monkeypatch):
    monkeypatch.setattr(frozen_transformers, "RATE", 0.05)
    before = [p.clone() for p in built(weights).clip.network.parameters()]
    none, some = built(weights, epochs=0), built(weights, epochs=8)
    baselines = [baseline.fit(images["train"], images["val"]) for baseline in (none, some)]
    for old, new in zip(before, some.clip.network.parameters(), strict=True):
        assert torch.equal(old, new)
    targets = images["train"].targets(CLASSES)

    def loss(baseline):
        odds = torch.from_numpy(baseline.embed(images["train"]).logits)
        own = torch.nn.functional.one_hot(torch.from_numpy(targets), 3).float()
        return float(torch.nn.functional.binary_cross_entropy_with_logits(odds, own))

    assert loss(baselines[1]) < 0.9 * loss(baselines[0])


def test_training_is_repeatable_and_a_state_is_enough(weights, images):
    first, second = (built(weights, epochs=1).fit(images["train"], images["val"]) for _ in "ab")
    again = built(weights).restore(first.state())
    for other in (second, again):
        assert (other.embed(images["test"]).logits == first.embed(images["test"]).logits).all()
    assert first.embed(images["test"]).vectors.shape == (12, 8)
    assert first.parameters == count(first.clip.network) + 3 * 16 * 16


def test_shots_are_fifty_of_either_at_most(weights):
    targets = np.repeat([0, 1, 2], 80)
    shots = _Shots.drawn(targets, 1, 0)
    assert (shots.other.sum(), (~shots.other).sum()) == (50, 50)
    assert (targets[shots.rows[~shots.other]] == 1).all()
    assert (targets[shots.rows[shots.other]] != 1).all()
    seen = np.concatenate([rows for rows, _ in shots.batches(0)])
    assert sorted(seen) == sorted(shots.rows)
    assert len(set(shots.rows)) == 100


def test_one_class_cannot_be_learned_from(weights, images):
    train = images["train"]
    with pytest.raises(TrainingError, match="fewer than two classes"):
        built(weights).fit(train.take(train.labels == "ada"), images["val"])


def test_what_is_absent_is_reported_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match=r"config.json is missing: run `hf download openai/"):
        built(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(WeightsError, match="pip install 'leaknet") as error:
        transformers("occ-clip")
    assert "\n" not in str(error.value)

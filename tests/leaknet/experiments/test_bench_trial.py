"""Which images a bench takes, and their degraded copies."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakcache.dataset.index import read_index
from leakcache.errors import CacheStale, ScoringError
from leakcache.images.decode import decode
from leakcache.images.degrade import degrade
from leakcache.store.build import build_cache
from leaknet.experiments.bench_trial import raw_data, spread, with_steps
from tests.leaknet.experiments.small_bench import small_caches
from tests.tiny_data import tiny_image


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=30),
    st.integers(1, 40),
)
def test_a_limit_spreads_over_generators_and_keeps_to_the_same_prompts(images, limit):
    labels = np.array([label for label, _ in images], np.str_)
    groups = np.array([f"{group}" for _, group in images], np.str_)
    kept = spread(labels, groups, limit)
    assert len(kept) == min(limit, len(images))
    assert (np.diff(kept) > 0).all()
    taken, there = Counter(labels[kept].tolist()), Counter(labels.tolist())
    most = max(taken.values(), default=0)
    assert all(taken[label] >= min(most - 1, there[label]) for label in there)
    for label in there:
        own = np.flatnonzero(labels == label)
        chosen = np.isin(own, kept)
        if chosen.any() and not chosen.all():
            assert max(groups[own[chosen]].tolist()) <= min(groups[own[~chosen]].tolist())


def test_all_images_are_taken_without_a_limit(caches):
    closed, unknown = caches
    data = raw_data(closed, unknown)
    folds = Counter(closed.folds.tolist())
    assert (len(data.train), len(data.val)) == (folds["train"], folds["val"])
    assert len(data.steps[0].test) == folds["test"]
    assert [len(part) for part in data.steps[0].unknown] == [8]
    assert data.classes == closed.classes


def test_prompts_of_other_data_have_names_of_their_own(caches):
    closed, unknown = caches
    data = raw_data(closed, unknown)
    [others] = data.steps[0].unknown
    assert set(others.groups.tolist()) == {f"unknown/{number:02d}" for number in range(4)}
    assert others.latents.groups.tolist() == others.groups.tolist()
    assert not set(others.groups.tolist()) & set(closed.groups.tolist())


def test_the_fingerprint_is_of_what_is_learned_from(caches):
    closed, unknown = caches
    data = raw_data(closed, unknown)
    assert data.fingerprint == raw_data(closed).fingerprint
    assert data.fingerprint != raw_data(closed, unknown, limit=4).fingerprint
    swapped = replace(data.train, labels=data.train.labels[::-1])
    assert data.fingerprint != replace(data, train=swapped).fingerprint
    assert data.encoding == closed.manifest.encoding.fingerprint
    assert data.fingerprint != replace(data, encoding="other").fingerprint


def test_an_image_on_both_sides_is_refused(tmp_path):
    closed, _ = small_caches(tmp_path, count=6)
    known = tmp_path / "images" / "ada" / "00.png"
    shutil.copy(known, tmp_path / "unknown" / "eve" / "copy.png")
    from leakcache.store.build import open_set_builds

    unknown = [build.cache for build in open_set_builds(closed, [tmp_path / "unknown"])]
    with pytest.raises(ScoringError, match=r"also the closed image ada/00\.png"):
        raw_data(closed, unknown)


def test_caches_that_were_encoded_otherwise_are_refused(caches, tmp_path):
    closed, [opened] = caches
    from leakcache.encoder.autoencoder import Encoder

    encoder = Encoder.load(closed.manifest.encoding.autoencoder.spec)
    index = read_index(Path(opened.manifest.data))
    cut = replace(closed.manifest.encoding.preprocessing, size=72)
    other = build_cache(index, encoder, tmp_path / "c", split="all", preprocessing=cut).cache
    with pytest.raises(CacheStale, match="preprocessing size"):
        raw_data(closed, [other])


def test_degraded_copies_are_those_of_the_images_images(tmp_path):
    closed, unknown = small_caches(tmp_path, count=6)
    raw = raw_data(closed, unknown)
    data = with_steps(raw, closed, unknown, [0, 2], "cpu")
    assert list(data.steps) == [0, 2]
    assert data.steps[0] is raw.steps[0]
    images = data.steps[2]
    originals = {
        (str(label), str(group)): row
        for row, (label, group) in enumerate(
            zip(raw.steps[0].test.labels, raw.steps[0].test.groups, strict=True)
        )
    }
    assert len(images.test) == len(originals)
    assert set(images.test.folds.tolist()) == {"test"}
    for row in range(len(images.test)):
        source = originals[str(images.test.labels[row]), str(images.test.groups[row])]
        test = raw.steps[0].test
        expected, _ = degrade(test.originals.image(source), 2, 0, str(test.hashes[source]))
        assert decode(images.test.data(row)).tobytes() == expected.tobytes()
    [others] = images.unknown
    assert set(others.labels.tolist()) == {"eve", "fay"}
    assert set(others.groups.tolist()) == set(raw.steps[0].unknown[0].groups.tolist())
    assert images.test.latents.z0.shape[1:] == raw.train.latents.z0.shape[1:]


def test_copies_are_made_and_encoded_once(tmp_path, monkeypatch):
    closed, unknown = small_caches(tmp_path, count=6)
    raw = raw_data(closed, unknown)
    first = with_steps(raw, closed, unknown, [1], "cpu").steps[1]
    monkeypatch.setattr(
        "leakcache.encoder.autoencoder.Encoder.encode_bytes",
        lambda *_: pytest.fail("encoded again"),
    )
    again = with_steps(raw, closed, unknown, [1], "cpu").steps[1]
    assert again.test.hashes.tolist() == first.test.hashes.tolist()


def test_an_autoencoder_that_has_changed_is_refused(tmp_path):
    closed, unknown = small_caches(tmp_path, count=6)
    from tests.tiny_data import save, tiny_model

    save(tiny_model(seed=5), tmp_path / "vae")
    with pytest.raises(CacheStale, match="other weights"):
        with_steps(raw_data(closed, unknown), closed, unknown, [1], "cpu")
    assert tiny_image(0).size == (64, 64)

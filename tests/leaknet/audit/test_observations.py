"""Duplicates: equal files, near duplicates, and images of one colour."""

from __future__ import annotations

import imagehash
import numpy as np
from audit_images import random_image, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leakcache.images.decode import decode
from leaknet.audit.observations import (
    MAX_DISTANCE,
    blank_images,
    exact_duplicates,
    near_duplicates,
    perceptual_hash,
)


def columns(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Folds, labels, groups: even rows train and a, odd rows test and b; two rows a group."""
    odd = np.arange(number) % 2 == 1
    groups = (np.arange(number) // 2).astype(str)
    return np.where(odd, "test", "train"), np.where(odd, "b", "a"), groups


def test_the_hash_is_that_of_imagehash():
    for seed in range(5):
        image = random_image(seed, 100, 80)
        assert f"{perceptual_hash(image):016x}" == str(imagehash.phash(image))


def test_equal_files_are_reported_with_what_they_cross():
    hashes = np.array(["x", "x", "y", "z", "y", "w"])
    first, second = exact_duplicates(hashes, *columns(6))
    assert (first.rows, first.folds, first.labels) == ((0, 1), ("test", "train"), ("a", "b"))
    assert first.crosses_folds
    assert first.crosses_labels
    assert (second.rows, second.groups) == ((2, 4), ("1", "2"))
    assert not any((second.crosses_folds, second.crosses_labels, second.crosses_sets))


def test_open_and_closed_are_a_crossing_of_sets_not_of_folds():
    same, labels, groups = np.array(["x", "x"]), np.array(["a", "b"]), np.array(["1", "1"])
    (found,) = exact_duplicates(same, np.array(["train", "open"]), labels, groups)
    assert found.crosses_sets
    assert not found.crosses_folds
    (found,) = exact_duplicates(same, np.array(["open", "open"]), labels, groups)
    assert not found.crosses_sets


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_near_duplicates_are_connected_components_of_close_pairs(seed, rows):
    random = np.random.default_rng(seed)
    numbers = [int.from_bytes(random.bytes(8)) for _ in range(rows)]
    for row in range(1, rows):  # chains: each some bits from an earlier one
        flips = random.choice(64, random.integers(0, 9), replace=False)
        numbers[row] = numbers[random.integers(row)] ^ sum(1 << int(bit) for bit in flips)
    hashes = np.array([f"file {row}" for row in range(rows)])
    found = near_duplicates(np.array(numbers, np.uint64), hashes, *columns(rows))
    linked = {row: {row} for row in range(rows)}
    for i in range(rows):
        for j in range(i):
            if (numbers[i] ^ numbers[j]).bit_count() <= MAX_DISTANCE and linked[i] is not linked[j]:
                linked[i] |= linked[j]
                for row in linked[i]:
                    linked[row] = linked[i]
    expected = {tuple(sorted(rows)) for rows in linked.values() if len(rows) > 1}
    assert {found_set.rows for found_set in found} == expected


def test_blocks_of_the_comparison_miss_no_pair():
    random = np.random.default_rng(0)
    # Half of the bits of each, as in perceptual hashes; different numbers are 20 bits apart.
    bits = np.argsort(random.random((700, 64)), axis=1) < 32
    numbers = np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
    numbers[690] = numbers[3] ^ np.uint64(0b11)
    numbers[256] = numbers[255]
    hashes = np.array([f"file {row}" for row in range(700)])
    found = near_duplicates(numbers, hashes, *columns(700))
    assert [found_set.rows for found_set in found] == [(3, 690), (255, 256)]


def test_reencoding_is_a_near_duplicate_and_another_image_is_not():
    image = random_image(1, 200, 200)
    small = image.resize((90, 90), Image.Resampling.LANCZOS)
    files = [
        saved(image, "PNG"),
        saved(image, "JPEG", quality=40),
        saved(small, "WEBP"),
        saved(random_image(2, 200, 200), "PNG"),
    ]
    phashes = np.array([perceptual_hash(decode(data, least=64)) for data in files], np.uint64)
    (found,) = near_duplicates(phashes, np.array(list("abcd")), *columns(4))
    assert found.rows == (0, 1, 2)


def test_equal_files_are_no_near_duplicates_and_blank_images_none_of_both():
    black = perceptual_hash(Image.new("RGB", (64, 64)))
    grey = perceptual_hash(Image.new("RGB", (64, 64), (200, 190, 180)))
    one = perceptual_hash(random_image(1))
    phashes = np.array([one, one, black, grey], np.uint64)
    assert near_duplicates(phashes, np.array(list("aabc")), *columns(4)) == []
    assert blank_images(phashes).tolist() == [False, False, True, True]

"""File facts as columns: varying, equivalent and constant facts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from audit_images import random_image, saved

from leaknet.audit.file_facts import SIZES, fact_table, read_facts

PLAIN = read_facts(saved(random_image(0), "JPEG"))


def test_only_what_varies_becomes_columns():
    facts = [PLAIN, replace(PLAIN, width=96), replace(PLAIN, exif=True)]
    table = fact_table(facts)
    assert list(table.columns) == ["width", "aspect", "exif", "bytes_per_pixel"]
    assert table.matrix[:, table.columns["width"][0]].tolist() == [48, 96, 48]
    assert table.matrix[:, table.columns["exif"][0]].tolist() == [0, 0, 1]


def test_texts_get_a_column_per_value_and_rare_ones_none():
    facts = [replace(PLAIN, software=f"program {i // 2}") for i in range(80)]
    table = fact_table(facts)
    block = table.matrix[:, table.columns["software"]]
    assert block.shape == (80, 32)
    assert (block.sum(axis=0) == 2).all()
    assert set(block.sum(axis=1).tolist()) == {0, 1}


def test_sizes_are_omitted_on_request():
    facts = [PLAIN, replace(PLAIN, bytes=PLAIN.bytes + 1)]
    assert fact_table(facts).columns.keys() == SIZES
    assert fact_table(facts, sizes=False).matrix.shape == (2, 0)


def test_equivalent_facts_are_evaluated_once():
    facts = [PLAIN, PLAIN, replace(PLAIN, width=96, height=96, format="PNG", mode="RGBA")]
    facts.append(replace(facts[2], mode="L"))
    calls = []

    def evaluate(block: np.ndarray) -> int:
        calls.append(block)
        return len(calls)

    found = fact_table(facts).evaluate_each(evaluate)
    assert found["width"] == found["height"] == found["format"] == 1
    assert found["mode"] == 2
    assert len(calls) == 2


def test_an_empty_collection_has_no_columns():
    assert fact_table([]).matrix.shape == (0, 0)

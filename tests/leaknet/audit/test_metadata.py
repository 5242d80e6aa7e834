"""File facts as columns: what varies, what says the same, and what is constant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pictures import picture, saved

from leaknet.audit.fact_table import SIZES, WORDS, fact_table
from leaknet.audit.file_facts import read_facts

PLAIN = read_facts(saved(picture(0), "JPEG"))


def test_only_what_varies_becomes_columns():
    facts = [PLAIN, replace(PLAIN, width=96), replace(PLAIN, exif=True)]
    table = fact_table(facts)
    assert list(table.columns) == ["width", "aspect", "exif", "bytes_per_pixel"]
    assert set(table.constant) == WORDS.keys() - table.columns.keys()
    assert table.matrix[:, table.columns["width"][0]].tolist() == [48, 96, 48]
    assert table.matrix[:, table.columns["exif"][0]].tolist() == [0, 0, 1]


def test_texts_get_a_column_a_value_and_rare_ones_share_none():
    facts = [replace(PLAIN, software=f"program {i // 2}") for i in range(80)]
    table = fact_table(facts)
    block = table.matrix[:, table.columns["software"]]
    assert block.shape == (80, 32)
    assert (block.sum(axis=0) == 2).all()
    assert set(block.sum(axis=1).tolist()) == {0, 1}


def test_sizes_are_left_out_where_the_encoder_was_ours():
    facts = [PLAIN, replace(PLAIN, bytes=PLAIN.bytes + 1)]
    assert fact_table(facts).columns.keys() == SIZES
    assert fact_table(facts, sizes=False).matrix.shape == (2, 0)


def test_facts_that_part_the_images_alike_are_judged_once():
    facts = [PLAIN, PLAIN, replace(PLAIN, width=96, height=96, format="PNG", mode="RGBA")]
    facts.append(replace(facts[2], mode="L"))
    calls = []

    def judge(block: np.ndarray) -> int:
        calls.append(block)
        return len(calls)

    found = fact_table(facts).each(judge)
    assert found["width"] == found["height"] == found["format"] == 1
    assert found["mode"] == 2
    assert len(calls) == 2


def test_no_file_at_all_has_no_columns():
    assert fact_table([]).matrix.shape == (0, 0)

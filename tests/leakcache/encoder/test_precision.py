"""The choice of a precision: fp32 unless bf16 is clearly faster, and it says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from leakcache.encoder.precision import GAIN, choose, choose_precision


@pytest.mark.parametrize(
    ("bf16", "expected"), [(10 * GAIN, "bf16"), (10 * GAIN - 0.1, "fp32"), (3.0, "fp32")]
)
def test_bf16_has_to_be_clearly_faster(bf16: float, expected: str):
    assert choose({"fp32": 10.0, "bf16": bf16}).precision == expected


def test_a_measured_choice_says_both_rates(tiny_folder: Path):
    found = choose_precision(str(tiny_folder), seconds=0.0)
    assert found.precision in ("fp32", "bf16")
    assert all(rate > 0 for rate in found.per_second.values())
    for words in (f"precision {found.precision}", "fp32 ", "bf16 ", "views of 256 pixels a second"):
        assert words in str(found)

"""Terms of the statistics branch: they sum to the margin, and a planted term is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from leakcache.encoder.autoencoder import Encoder
from leakcache.statistics.activation_features import LENGTHS as SEEN
from leakcache.statistics.activation_features import activation_statistics
from leakcache.statistics.pixel_families import HALF
from leakcache.statistics.pixel_features import LENGTHS, family_slice, pixel_statistics
from leakcache.statistics.rows import dequantise, quantise
from leaknet.explain.contributions import (
    COPIES,
    PARTS,
    TileStatistics,
    group_of,
    native_families,
    shuffled_agreement,
    tile_boxes,
    tile_margins,
    tile_statistics,
    weigh,
)
from leaknet.explain.patterns import patterns
from leaknet.model.statistics_branch import StatisticsBranch
from tests.leaknet.model.test_statistics_branch import (
    data,
    fitted,
    with_activations,
    with_copies,
)
from tests.tiny_data import save, tiny_image, tiny_model

LENGTH = sum(LENGTHS.values())
LUMA = family_slice("luma_covariance")


@pytest.fixture(scope="module", params=[False, True], ids=["originals", "with copies"])
def branch(request: pytest.FixtureRequest) -> StatisticsBranch:
    split = data().train
    branch, _ = fitted(with_copies(split) if request.param else split, degraded=request.param)
    branch.sources.score_weights.copy_(
        0.05 * torch.tensor([[1, 0.2, 0], [0, 1, -0.1], [0.3, 0, 1]])
    )
    branch.sources.counts[0] += 5  # ratios of classes with different numbers are quadratic
    return branch


@pytest.fixture(scope="module")
def statistics(branch: StatisticsBranch) -> torch.Tensor:
    return branch.statistics_of(data().val)


def planted(deviation: float = 2.0) -> tuple[StatisticsBranch, torch.Tensor]:
    """A branch that reads one value of luma_covariance, and an image where it is unusual."""
    branch, _ = fitted(data().train)
    weight = torch.zeros_like(branch.ridge.weight)
    place = LUMA.start + 5
    weight[place, 0] = 1.0
    branch.ridge.set_weights(weight.numpy())
    branch.sources.score_weights.zero_()
    features = branch.ridge.features
    values = torch.cat([features.mean, torch.zeros(LENGTH)]).repeat(1, 5, 1)
    values[0, 1, place] += deviation / float(features.scale[place])
    return branch, values


def test_terms_sum_to_the_margin(branch: StatisticsBranch, statistics: torch.Tensor) -> None:
    scores, _ = branch.class_scores(statistics)
    for row, pair in enumerate([(0, 1), (2, 0), (1, 2)]):
        found, _ = weigh(branch, statistics[row : row + 1], pair)
        expected = float(scores[row, pair[0]] - scores[row, pair[1]])
        assert found.margin == pytest.approx(expected, rel=1e-5, abs=1e-5)
        rounding = 3e-5 * (abs(found.bias) + float(np.abs(found.values).sum()))
        for sums in (found.by_part, found.by_family, found.by_group):
            assert sum(sums.values()) + found.bias == pytest.approx(expected, abs=rounding)
        assert found.parts[:5] == PARTS
        assert (COPIES in found.parts) == (branch.copy_ridge is not None)


def test_a_swapped_pair_has_the_opposite_terms(
    branch: StatisticsBranch, statistics: torch.Tensor
) -> None:
    one, other = (weigh(branch, statistics[:1], pair)[0] for pair in ((0, 1), (1, 0)))
    np.testing.assert_allclose(one.values, -other.values)


def test_a_planted_term_is_found_in_its_family_and_part() -> None:
    branch, statistics = planted()
    found, _ = weigh(branch, statistics, (0, 1))
    family, value = next(iter(found.by_family.items()))
    assert (family, found.margin) == ("luma_covariance", pytest.approx(value))
    assert found.by_part == pytest.approx({**dict.fromkeys(PARTS, 0.0), "top left": value})
    share = 1 / np.sqrt(LENGTHS[family] * len(LENGTHS))
    assert value == pytest.approx(2 * share / len(PARTS), rel=1e-4)


def test_the_patterns_of_a_family_add_up_to_its_term() -> None:
    branch, statistics = planted()
    _, weights = weigh(branch, statistics, (0, 1))
    patch, _ = patterns(weights, statistics)
    # One entry off the diagonal: two patterns of equal and opposite weight, of equal excess.
    assert patch.family == "luma_covariance"
    assert patch.contribution == pytest.approx(patch.of / 2, rel=1e-4)
    rows, columns = np.triu_indices(49)
    strongest = np.argsort(-np.abs(patch.image.ravel()))[:2].tolist()
    assert sorted(strongest) == [rows[5], columns[5]]


def test_a_planted_frequency_is_the_pattern() -> None:
    branch, statistics = planted(0.0)
    weight = torch.zeros_like(branch.ridge.weight)
    place = family_slice("residual_spectrum").start + HALF * HALF + 3 * HALF + 2
    weight[place, 1] = -1.0
    branch.ridge.set_weights(weight.numpy())
    statistics[0, :, place] += 1 / branch.ridge.features.scale[place]
    _, weights = weigh(branch, statistics, (0, 1))
    _, wave = patterns(weights, statistics)
    assert wave.words.startswith("blue chroma, frequency (3, 2)")
    assert wave.contribution == pytest.approx(wave.of)
    assert wave.contribution > 0
    assert wave.spectrum is not None
    assert np.count_nonzero(wave.spectrum) == 1


def test_a_tile_that_covers_a_quarter_has_its_statistics(tmp_path: Path) -> None:
    view = np.asarray(tiny_image(3, (160, 144)))
    quarters = [(0, 72, 0, 80), (0, 72, 80, 160), (72, 144, 0, 80), (72, 144, 80, 160)]
    pixels = torch.from_numpy(view.copy())[None]
    encoder = Encoder.load(str(save(tiny_model(), tmp_path / "vae")))
    expected = pixel_statistics(pixels, 5)[0, 1:]
    seen = activation_statistics(encoder.encode_with_activations(pixels)[1], 5)[0, 1:]
    stored = [
        torch.from_numpy(dequantise(quantise(rows.numpy(), lengths), lengths)).float()
        for rows, lengths in ((expected, LENGTHS), (seen, SEEN))
    ]
    for own, columns in ((None, stored[0]), (encoder, torch.cat(stored, dim=1))):
        found = tile_statistics(view, quarters, own).values.float()
        # Sums in another order may move a value by a step of its 8 bits.
        assert (found - columns).abs().mean() < 1e-3
        assert (found - columns).abs().max() < 0.1


@pytest.mark.parametrize(("height", "width", "count"), [(512, 512, 16), (64, 130, 2), (200, 64, 3)])
def test_tiles_cover_the_view(height: int, width: int, count: int) -> None:
    boxes = tile_boxes(height, width)
    assert len(boxes) == count
    assert len({(b - a, d - c) for a, b, c, d in boxes}) == 1
    assert all(edge % 8 == 0 for box in boxes for edge in box)
    assert max(box[1] for box in boxes) > height - 8
    assert max(box[3] for box in boxes) > width - 8


def test_tile_margins_are_those_of_the_regressions(branch: StatisticsBranch) -> None:
    statistics = branch.statistics_of(data().val)[:1]
    _, weights = weigh(branch, statistics, (0, 1))
    tiles = TileStatistics([(0, 64, 0, 64)] * 5, statistics[0, :, :LENGTH])
    found, _ = weigh(branch, statistics, (0, 1))
    margins = tile_margins(weights, tiles)
    assert sum(native_families(branch).values()) == LENGTH
    if branch.copy_ridge is None:
        expected = [len(PARTS) * term for term in found.by_part.values()]
        np.testing.assert_allclose(margins, expected, atol=1e-5)
    else:
        assert not np.allclose(margins, 0)


def test_shuffled_weights_show_whether_a_map_depends_on_the_weights() -> None:
    branch, _ = fitted(data().train)
    values = data().val["pixel_statistics"].flatten(0, 1)[:16]
    tiles = TileStatistics([(0, 64, 0, 64)] * 16, values)
    _, weights = weigh(branch, branch.statistics_of(data().val)[:1], (0, 1))
    free = shuffled_agreement(weights, tiles, tile_margins(weights, tiles), 10)
    # All values of a tile rise together, and so does the margin, whatever value has which weight.
    branch.ridge.set_weights(np.eye(1, 3).repeat(LENGTH, axis=0))
    ramp = branch.ridge.features.mean + torch.linspace(-1, 1, 16)[:, None] / 2
    tied = TileStatistics(tiles.boxes, ramp)
    bound = shuffled_agreement(weights, tied, tile_margins(weights, tied), 10)
    assert free is not None
    assert bound is not None
    assert free < 0.5
    assert bound > 0.9


def test_a_map_of_few_tiles_cannot_be_compared(branch: StatisticsBranch) -> None:
    statistics = branch.statistics_of(data().val)[:1]
    _, weights = weigh(branch, statistics, (0, 1))
    tiles = TileStatistics([(0, 64, 0, 64)] * 3, statistics[0, :3, :LENGTH])
    assert shuffled_agreement(weights, tiles, tile_margins(weights, tiles), 3) is None


def test_terms_are_grouped_by_what_is_measured() -> None:
    seen = with_activations(data().train, 3)
    branch, _ = fitted(seen, activations=True)
    found, _ = weigh(branch, branch.statistics_of(seen)[:1], (0, 1))
    assert set(found.by_group) == {
        "pixels",
        *(f"activations at 1/{scale}{of}" for scale in (2, 4, 8) for of in ("", ", resized image")),
    }
    assert found.total == pytest.approx(found.margin, rel=1e-5, abs=1e-5)


def test_families_are_named_by_what_they_are_measured_on() -> None:
    assert group_of("odd_luma") == "pixels"
    assert group_of("across_4") == "activations at 1/4"
    assert group_of("resized_down_8") == "activations at 1/8, resized image"

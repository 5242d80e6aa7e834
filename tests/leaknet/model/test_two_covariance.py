"""The two-covariance model against densities and matrices that are written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import eigh
from scipy.stats import multivariate_normal

from leaknet.model.feature_space import GramSpace
from leaknet.model.source_map import SourceMap
from leaknet.model.two_covariance import (
    FOLDS,
    PART_SHARE,
    STRENGTH,
    Directions,
    TwoCovariance,
    fit_directions,
    group_folds,
    held_out,
)

CLASSES, EACH, PARTS, LENGTH = 6, 8, 3, 60
TARGETS = torch.arange(CLASSES).repeat_interleave(EACH)
GROUPS = np.tile(np.arange(EACH), CLASSES)


def views(seed: int, *, spread: float = 2.0, targets: torch.Tensor = TARGETS) -> torch.Tensor:
    """Views of images whose sources, images and parts are normal; image by image."""
    sources = np.random.default_rng(99).normal(size=(CLASSES, 1, LENGTH))
    rng = np.random.default_rng(seed)
    images = sources[targets.numpy()] + spread * rng.normal(size=(len(targets), 1, LENGTH))
    parts = images + rng.normal(size=(len(targets), PARTS, LENGTH))
    return torch.from_numpy(parts.reshape(-1, LENGTH))


def small_model() -> TwoCovariance:
    rng = np.random.default_rng(4)
    return TwoCovariance(
        torch.tensor([3.0, 0.7, 0.2], dtype=torch.float64),
        1.7,
        torch.from_numpy(rng.normal(size=(4, 3))),
        torch.tensor([5.0, 1.0, 12.0, 0.0], dtype=torch.float64),
    )


def joint_log_density(model: TwoCovariance, images: np.ndarray) -> float:
    """Of images of one source, all of them together."""
    total = 0.0
    for variance, values in zip(model.variances.tolist(), images.T, strict=True):
        covariance = variance * np.ones((len(values), len(values)))
        covariance += model.spread * np.eye(len(values))
        total += float(multivariate_normal.logpdf(values, np.zeros(len(values)), covariance))
    return total


def with_mean(mean: np.ndarray, count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    found = rng.normal(size=(count, len(mean)))
    return np.asarray(found - found.mean(axis=0) + mean)


@pytest.mark.parametrize("factors", [[1, -1, 0, 0], [-1, 0, 1, 0], [0.2, 0.5, -0.3, -0.4]])
def test_the_margin_form_gives_a_weighted_sum_of_ratios(factors: list[float]):
    model, new = small_model(), torch.from_numpy(np.random.default_rng(6).normal(size=(5, 3)))
    ratios, weight = model.log_likelihood_ratios(new), torch.tensor(factors).double()
    for row, image in enumerate(new):
        weights, constant = model.margin_form(image, weight)
        expected = float(ratios[row] @ weight)
        assert float(weights @ image + constant) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_ratio_is_that_of_joint_densities():
    model, new = small_model(), np.random.default_rng(5).normal(size=(7, 3)) * 2
    ratios = model.log_likelihood_ratios(torch.from_numpy(new)).numpy()
    for number, count in enumerate(model.counts.int().tolist()[:3]):
        known = with_mean(model.centres[number].numpy(), count)
        for row, image in enumerate(new):
            together = joint_log_density(model, np.vstack([known, image]))
            apart = joint_log_density(model, known) + joint_log_density(model, image[None])
            assert ratios[row, number] == pytest.approx(together - apart)
    np.testing.assert_allclose(ratios[:, 3], 0, atol=1e-12)


def test_the_same_source_of_two_sets_of_images():
    model, images = small_model(), np.random.default_rng(6).normal(size=(8, 3)) * 2
    first, second = images[:3], images[3:]
    together = joint_log_density(model, images)
    apart = joint_log_density(model, first) + joint_log_density(model, second)
    found = model.same_source(torch.from_numpy(first), torch.from_numpy(second))
    assert found == pytest.approx(together - apart)
    pairs = model.pairwise(torch.from_numpy(images))
    torch.testing.assert_close(pairs, pairs.T)
    one, other = torch.from_numpy(images[[2]]), torch.from_numpy(images[[5]])
    assert float(pairs[2, 5]) == pytest.approx(model.same_source(one, other))


def test_enrolment_is_the_ratio_of_the_same_source():
    model, images = small_model(), torch.from_numpy(np.random.default_rng(7).normal(size=(6, 3)))
    grown = model.enrol(images[:5])
    last = grown.log_likelihood_ratios(images[5:])
    assert float(last[0, -1]) == pytest.approx(model.same_source(images[:5], images[5:]))
    before = model.log_likelihood_ratios(images[5:])
    torch.testing.assert_close(last[:, :-1], before)


def written_out(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """W and B of the module's equations, as matrices of the features."""
    images = x.reshape(-1, PARTS, LENGTH).mean(axis=1)
    means = np.stack([images[TARGETS.numpy() == c].mean(axis=0) for c in range(CLASSES)])
    about_class = images - means[TARGETS.numpy()]
    about_image = x - images.repeat(PARTS, axis=0)
    s_image = about_class.T @ about_class / (len(images) - CLASSES)
    s_part = about_image.T @ about_image
    trace = np.trace(s_image)
    within = (1 - PART_SHARE) * s_image + PART_SHARE * trace / np.trace(s_part) * s_part
    within += STRENGTH * trace / len(x) * np.eye(LENGTH)
    centred = means - means.mean(axis=0)
    return within, centred.T @ centred


def test_directions_are_those_of_matrices_written_out():
    x = views(1)
    found = fit_directions(x @ x.T, TARGETS, PARTS)
    directions = (x.T @ found.weights).numpy()
    within, between = written_out(x.numpy())
    _, vectors = eigh(between, within)
    expected = vectors[:, ::-1][:, : CLASSES - 1]
    np.testing.assert_allclose(directions.T @ within @ directions, np.eye(CLASSES - 1), atol=1e-8)
    signs = np.sign((directions * expected).sum(axis=0))
    np.testing.assert_allclose(directions, expected * signs, atol=1e-8)
    images = x.reshape(-1, PARTS, LENGTH).mean(dim=1)
    coordinates = images @ x.T @ found.weights - found.offset
    means = torch.stack([coordinates[c == TARGETS].mean(dim=0) for c in range(CLASSES)])
    torch.testing.assert_close(means, found.centres)
    torch.testing.assert_close(
        means.mean(dim=0), torch.zeros(CLASSES - 1).double(), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("move", [np.zeros(LENGTH), np.full(LENGTH, 5.0)])
def test_a_shift_of_all_features_changes_no_coordinate(move: np.ndarray):
    x, shifted = views(1), views(1) + torch.from_numpy(move)
    for rows in (x, shifted):
        found = fit_directions(rows @ rows.T, TARGETS, PARTS)
        coordinates = rows @ rows.T @ found.weights - found.offset
        first = coordinates if rows is x else first
    torch.testing.assert_close(coordinates.abs(), first.abs(), atol=1e-6, rtol=1e-6)


def test_new_images_are_named_and_known():
    x, new = views(1, spread=0.5), views(2, spread=0.5)
    found = fit_directions(x @ x.T, TARGETS, PARTS)
    images = (new @ x.T @ found.weights - found.offset).reshape(-1, PARTS, CLASSES - 1).mean(dim=1)
    ratios = TwoCovariance.of(found).log_likelihood_ratios(images)
    assert (ratios.argmax(dim=1) == TARGETS).double().mean() > 0.9


def test_held_out_ratios_are_those_of_fits_without_the_fold():
    x = views(1)
    gram = x @ x.T
    found = held_out(
        GramSpace(gram, GROUPS).fit_sources, TARGETS, GROUPS, spreads=(3.0,), evidence_spread=2.0
    )
    assert len(np.unique(found.folds)) == FOLDS
    for fold in range(FOLDS):
        inside = found.folds == fold
        assert not set(GROUPS[inside.numpy()]) & set(GROUPS[~inside.numpy()])
        rows = x.reshape(-1, PARTS, LENGTH)
        known, rest = rows[~inside].flatten(0, 1), rows[inside].flatten(0, 1)
        own = fit_directions(known @ known.T, TARGETS[~inside], PARTS)
        coordinates = rest @ known.T @ own.weights - own.offset
        coordinates = coordinates.reshape(-1, PARTS, CLASSES - 1).mean(dim=1)
        model = TwoCovariance.of(own, 3.0)
        expected = model.log_likelihood_ratios(coordinates)
        torch.testing.assert_close(found.ratios[inside], expected)
        evidence = model.with_spread(2.0).log_likelihood_ratios(coordinates).amax(dim=1)
        torch.testing.assert_close(found.evidence[inside], evidence)


def test_held_out_coordinates_are_those_of_the_folds_turned_to_those_of_all_images():
    """Distances are kept, and the class means lie where those of the fit to all images do."""
    x = views(1)
    fit = GramSpace(x @ x.T, GROUPS).fit_sources
    found = held_out(fit, TARGETS, GROUPS)
    own = found.folds == 0
    rest, inside = (torch.nonzero(mask)[:, 0] for mask in (~own, own))
    expected = fit([(rest, TARGETS[rest])])[0].coordinates(inside)
    turned = found.coordinates[inside]
    torch.testing.assert_close(torch.cdist(turned, turned), torch.cdist(expected, expected))
    means = torch.stack([found.coordinates[c == TARGETS].mean(dim=0) for c in range(CLASSES)])
    alike = torch.nn.functional.cosine_similarity(means, found.directions.centres, dim=1)
    assert alike.min() > 0.75


def test_the_spread_is_the_likeliest():
    x = views(1)
    fit = GramSpace(x @ x.T, GROUPS).fit_sources
    losses = {}
    for spread in (1.0, 4.0, 60.0):
        found = held_out(fit, TARGETS, GROUPS, spreads=(spread,))
        picked = found.ratios.log_softmax(dim=1)[torch.arange(len(TARGETS)), TARGETS]
        losses[spread] = -float(picked.sum())
    chosen = held_out(fit, TARGETS, GROUPS, spreads=tuple(losses)).spread
    assert chosen == min(losses, key=losses.__getitem__)


def test_one_group_and_classes_that_only_one_group_has_have_no_ratio():
    x = views(1)
    fit = GramSpace(x @ x.T, GROUPS).fit_sources
    single = held_out(fit, TARGETS, np.zeros(len(TARGETS)))
    assert not single.ratios.any()
    groups = np.where(TARGETS.numpy() == 2, 100, GROUPS)
    found = held_out(fit, TARGETS, groups)
    lonely = found.folds == found.folds[TARGETS == 2][0]
    assert not found.ratios[lonely][:, 2].any()
    assert found.ratios[lonely][:, 0].any()


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_equal_images_give_finite_numbers(level: float):
    x = torch.full((len(TARGETS) * PARTS, LENGTH), level, dtype=torch.float64)
    found = fit_directions(x @ x.T, TARGETS, PARTS)
    ratios = TwoCovariance.of(found).log_likelihood_ratios(x[:3] @ x.T @ found.weights)
    assert torch.isfinite(ratios).all()
    one = fit_directions(views(1)[:2] @ views(1)[:2].T, torch.arange(2))
    assert all(torch.isfinite(values).all() for values in (one.weights, one.centres))


def test_two_classes_have_one_direction():
    x = views(1)[: 2 * EACH * PARTS]
    found = fit_directions(x @ x.T, TARGETS[: 2 * EACH], PARTS)
    assert found.weights.shape[1] == 1


def test_groups_stay_together_in_folds():
    folds = group_folds(GROUPS)
    assert all(len(folds[group == GROUPS].unique()) == 1 for group in range(EACH))
    assert torch.equal(group_folds(np.zeros(5)), torch.zeros(5).long())


def test_a_map_is_saved_with_shapes_of_its_own():
    rng = np.random.default_rng(1)
    centres = 4 * torch.from_numpy(rng.normal(size=(CLASSES, 3)))
    counts = torch.full((CLASSES,), float(EACH), dtype=torch.float64)
    offset = torch.zeros(3, dtype=torch.float64)
    directions = Directions(torch.eye(3, dtype=torch.float64), offset, centres, counts)
    fitted = SourceMap(3)
    model = TwoCovariance.of(directions, 2.0)
    fitted.set_model(directions.weights, directions, model, np.eye(CLASSES))
    again = SourceMap(3)
    again.load_state_dict(fitted.state_dict())
    new = (centres[TARGETS] + torch.from_numpy(rng.normal(size=(len(TARGETS), 3)))).float()
    ratios = again.model.log_likelihood_ratios(again.coordinates(new))
    assert (ratios.argmax(dim=1) == TARGETS).double().mean() > 0.9
    fitted.enrol(fitted.coordinates(new[TARGETS == 0]))
    more = fitted.model.log_likelihood_ratios(fitted.coordinates(new))
    assert more.shape == (len(new), CLASSES + 1)
    torch.testing.assert_close(more[:, :-1], ratios)


def test_variances_are_moments_without_those_of_the_means():
    rng = np.random.default_rng(3)
    truth, each, classes = np.array([4.0, 1.0, 0.2]), 5, 4000
    centres = rng.normal(size=(classes, 3)) * np.sqrt(truth + 1 / each)
    directions = Directions(
        torch.eye(3).double(),
        torch.zeros(3).double(),
        torch.from_numpy(centres),
        torch.full((classes,), float(each), dtype=torch.float64),
    )
    found = TwoCovariance.of(directions).variances.numpy()
    np.testing.assert_allclose(found, truth, rtol=0.1)

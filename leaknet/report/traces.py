"""Traces of generators, from the columns of a cache alone.

Content varies far more than traces do. Where images of several generators share a prompt group,
each image is therefore compared with the mean of its group over the generators; where they do not,
with the mean of all images, and traces then hold differences of content too.

A deviation counts where the mean over images differs from 0 (Student's t, two-sided) at a false
discovery rate of 5 % over all coefficients and generators (Benjamini and Yekutieli, "The control of
the false discovery rate in multiple testing under dependency", 2001).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from scipy.stats import false_discovery_control
from scipy.stats import t as student

from leakcache.errors import ScoringError
from leakcache.statistics.pixel_families import HALF, TILE
from leakcache.statistics.pixel_features import LENGTHS, family_slice
from leakcache.statistics.planes import dct_low
from leaknet.config import PIXELS, Z0
from leaknet.data.columns import ImageColumns
from leaknet.model.ridge import family_weights

DCT_SIZE = 8
RATE = 0.05
"""False discovery rate."""
SHIFT = 16
"""Pixels, up to which autocorrelations are shown."""
LEAST = 2
"""Images of a generator at least."""
CONSTANT = 1e-6


@dataclass(frozen=True)
class Deviation:
    """How the mean of a generator's images deviates from the other generators.

    Attributes:
        mean: of the deviations of its images.
        significant: where it differs from 0, at the false discovery rate.
    """

    mean: Float64[np.ndarray, "*shape"]
    significant: Bool[np.ndarray, "*shape"]

    @property
    def kept(self) -> Float64[np.ndarray, "*shape"]:
        """The mean, 0 where it is not significant."""
        return np.where(self.significant, self.mean, 0.0)


@dataclass(frozen=True)
class Atlas:
    """Traces of the generators of a cache.

    Attributes:
        generators: in the order of the arrays.
        images: of each.
        paired: fraction of the images whose prompt group has several generators.
        channels: deviation of the mean of each latent channel; None without latents.
        low: deviation of the low DCT coefficients of the latent, channel by channel.
        latent: height and width of a latent.
        spectrum: deviation of the log power of the residual of luma, by frequency; None without
            pixel statistics. Rows and columns are frequencies from 0 to 1/2 cycle a pixel.
        power: mean power of the residual of luma of each generator.
        distances: between generators in pixel statistics; None without these, or with fewer than
            two generators.
    """

    generators: tuple[str, ...]
    images: tuple[int, ...]
    paired: float
    channels: tuple[Deviation, ...] | None
    low: tuple[Deviation, ...] | None
    latent: tuple[int, int] | None
    spectrum: tuple[Deviation, ...] | None
    power: Float64[np.ndarray, "generator row column"] | None
    distances: Float64[np.ndarray, "generator generator"] | None

    @property
    def tree(self) -> Float64[np.ndarray, "merge 4"] | None:
        """Average linkage of the distances, as `scipy.cluster.hierarchy.linkage` returns it."""
        if self.distances is None:
            return None
        found: np.ndarray = linkage(squareform(self.distances, checks=False), "average")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found: dict[str, Any] = {
            "generators": dict(zip(self.generators, self.images, strict=True)),
            "paired": self.paired,
            "false_discovery_rate": RATE,
        }
        for name in ("channels", "low", "spectrum"):
            if (deviations := getattr(self, name)) is not None:
                found[name] = {
                    generator: {"mean": one.mean, "significant": one.significant}
                    for generator, one in zip(self.generators, deviations, strict=True)
                }
        if self.distances is not None:
            found["distances"] = self.distances
        return found


def make_atlas(images: ImageColumns) -> Atlas:
    """Compute the traces of the generators of some images.

    Args:
        images: with latents, pixel statistics or both; of one fold or several.

    Raises:
        ScoringError: a generator has fewer than two images, or no column is there.
    """
    names, targets = np.unique(images.labels, return_inverse=True)
    counts = np.bincount(targets)
    if counts.min() < LEAST:
        name = names[int(counts.argmin())]
        raise ScoringError(f"{name!r} has one image only, an atlas needs {LEAST} of each generator")
    groups, paired = compared_groups(images.groups, targets)
    found: dict[str, Any] = dict.fromkeys(("channels", "low", "latent", "spectrum", "power"))
    if Z0 in images:
        z0 = images.z0.float().mean(dim=1)  # over the views
        found["latent"] = (z0.shape[2], z0.shape[3])
        size = min(DCT_SIZE, *found["latent"])
        found["channels"] = deviations(z0.mean(dim=(2, 3)).numpy(), targets, groups)
        found["low"] = deviations(dct_low(z0, size).numpy(), targets, groups)
    distances = None
    if PIXELS in images:
        whole = images[PIXELS][:, 0].float().numpy()
        spectra = whole[:, family_slice("residual_spectrum")][:, : HALF * HALF].reshape(
            -1, HALF, HALF
        )
        found["spectrum"] = deviations(spectra, targets, groups)
        found["power"] = np.stack([np.exp(m) for m in class_means(spectra, targets)])
        distances = class_distances(whole, targets, groups) if len(names) > 1 else None
    if Z0 not in images and PIXELS not in images:
        raise ScoringError(
            "the cache has neither z0 nor pixel_statistics: build it with --for best"
        )
    return Atlas(
        tuple(names.tolist()), tuple(counts.tolist()), paired, distances=distances, **found
    )


def compared_groups(
    groups: Shaped[np.ndarray, "image"], targets: Int[np.ndarray, "image"]
) -> tuple[Int[np.ndarray, "image"], float]:
    """Number of the group that each image is compared with, and the fraction of paired images."""
    _, number = np.unique(groups, return_inverse=True)
    several = np.array(
        [len(set(targets[number == g].tolist())) > 1 for g in range(number.max() + 1)]
    )
    paired = several[number]
    # Images without a pair are compared with all images, if they are the rule; else left in groups.
    if paired.mean() < 0.5:
        return np.zeros_like(number), 0.0
    return np.where(paired, number, number.max() + 1), float(paired.mean())


def class_means(
    values: Float[np.ndarray, "image *shape"], targets: Int[np.ndarray, "image"]
) -> Float64[np.ndarray, "generator *shape"]:
    """Mean of each generator."""
    return np.stack(
        [values[targets == c].mean(axis=0, dtype=np.float64) for c in range(targets.max() + 1)]
    )


def residuals_of(
    values: Float[np.ndarray, "image *shape"],
    targets: Int[np.ndarray, "image"],
    groups: Int[np.ndarray, "image"],
) -> Float64[np.ndarray, "image *shape"]:
    """Values less the mean of their group, in which each generator weighs the same."""
    found = values.astype(np.float64)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        own, inverse = np.unique(targets[rows], return_inverse=True)
        means = [found[rows[inverse == i]].mean(axis=0) for i in range(len(own))]
        found[rows] -= np.mean(means, axis=0)
    return found


def deviations(
    values: Float[np.ndarray, "image *shape"],
    targets: Int[np.ndarray, "image"],
    groups: Int[np.ndarray, "image"],
) -> tuple[Deviation, ...]:
    """Of each generator; the false discovery rate is that over all generators together."""
    found = residuals_of(values, targets, groups)
    means, p_values = [], []
    for c in range(int(targets.max()) + 1):
        own = found[targets == c]
        mean, error = own.mean(axis=0), own.std(axis=0, ddof=1) / np.sqrt(len(own))
        statistic = np.abs(mean) / np.maximum(error, CONSTANT)
        means.append(mean)
        p_values.append(2 * student.sf(statistic, len(own) - 1))
    every = np.stack(p_values)
    significant = false_discovery_control(every.ravel(), method="by").reshape(every.shape) <= RATE
    return tuple(Deviation(m, s) for m, s in zip(means, significant, strict=True))


def class_distances(
    values: Float[np.ndarray, "image value"],
    targets: Int[np.ndarray, "image"],
    groups: Int[np.ndarray, "image"],
) -> Float64[np.ndarray, "generator generator"]:
    """Distances of the generators' means, less what the scatter of single images adds to them.

    Values have unit deviation about the mean of their generator and the weights of families that
    the statistics branch gives them. Squared distances are unbiased, then cut at 0.
    """
    found = residuals_of(values, targets, groups)
    means = class_means(found, targets)
    scatter = np.sqrt(np.square(found - means[targets]).mean(axis=0))
    gain = np.where(scatter > CONSTANT, 1 / np.maximum(scatter, CONSTANT), 0.0)
    weights = gain * family_weights(LENGTHS).double().numpy()
    counts = np.bincount(targets)
    errors = [
        float(np.square((found[targets == c] - means[c]) * weights).sum()) / (n * max(n - 1, 1))
        for c, n in enumerate(counts.tolist())
    ]
    scaled = means * weights
    squared = np.square(scaled[:, None] - scaled[None]).sum(axis=2) - np.add.outer(errors, errors)
    np.fill_diagonal(squared, 0.0)
    distances: np.ndarray = np.sqrt(squared.clip(0))
    return distances


def whole_spectrum(
    half: Float64[np.ndarray, "row column"],
) -> Float64[np.ndarray, "side side"]:
    """A spectrum of |frequencies| as the full plane, frequency 0 in the middle."""
    place = np.abs(np.arange(-TILE // 2, TILE // 2))
    found: np.ndarray = half[place[:, None], place]
    return found


def autocorrelation(power: Float64[np.ndarray, "row column"]) -> Float64[np.ndarray, "shift shift"]:
    """Of the residual with this power spectrum: 1 at shift 0, in the middle; up to 16 pixels."""
    plane = np.fft.ifftshift(whole_spectrum(power))
    found = np.fft.fftshift(np.fft.ifft2(plane).real)
    near = slice(TILE // 2 - SHIFT, TILE // 2 + SHIFT + 1)
    nearby: np.ndarray = found[near, near] / max(float(found.max()), CONSTANT)
    return nearby

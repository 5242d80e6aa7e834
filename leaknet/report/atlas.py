"""The page of an atlas: spectra, low frequencies of latents and distances, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from leakcache.dct import idct_low
from leakcache.files import parse_json, read_text
from leakcache.names import visible
from leaknet.files import write_text
from leaknet.report.page import Section, page_text
from leaknet.report.raster import PageImage, beside, signed_map
from leaknet.report.svg import MAX_LEAVES, Axis, Html, dendrogram
from leaknet.report.traces import RATE, Atlas, autocorrelation, whole_spectrum

CAUSES = {
    "schedule": "schedule",
    "prediction": "predicts",
    "zero_terminal_snr": "zero terminal SNR",
    "sampler": "sampler",
    "steps": "steps",
}
"""Settings of a generator that a data set may state in its manifest.json, as headings."""


def write_atlas(atlas: Atlas, cache: str, data: Path, out: Path) -> None:
    """Write the page.

    Args:
        atlas: what it shows.
        cache: folder of the cache, for the head of the page.
        data: data root, whose manifest.json may state how its generators differ.
        out: the file.

    Raises:
        RunError: it cannot be written.
    """
    write_text(out, render(atlas, cache, causes_of(data)))


def causes_of(data: Path) -> dict[str, dict[str, Any]]:
    """Stated settings by generator; empty where the data state none."""
    try:
        listed = parse_json(read_text(data / "manifest.json"))["generators"]
        return {str(one["name"]): {key: one[key] for key in CAUSES} for one in listed}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def render(atlas: Atlas, cache: str, causes: dict[str, dict[str, Any]]) -> str:
    """The page as text."""
    sections = [
        Section("traces", "Generators", "Generators", _summary(atlas, causes), "atlas_table")
    ]
    if atlas.spectrum is not None:
        content: dict[str, Any] = {"panels": _spectra(atlas)}
        sections.append(Section("spectra", "Spectra", "Residual spectra", content, "atlas_spectra"))
    if atlas.low is not None:
        channels = [f"channel {n + 1}" for n in range(len(atlas.low[0].mean))]
        content = {"panels": _latents(atlas), "channels": channels}
        sections.append(Section("latents", "Latents", "Low frequencies", content, "atlas_latents"))
    if atlas.distances is not None:
        content = {
            "tree": _tree(atlas),
            "names": [visible(name) for name in atlas.generators],
            "rows": _rows(atlas),
            "top": float(atlas.distances.max()),
        }
        sections.append(
            Section("distances", "Distances", "Distances of generators", content, "atlas_distances")
        )
    return page_text(
        "atlas.html",
        "Traces of generators",
        sections,
        command="leak atlas",
        cache=cache,
        atlas=atlas,
        rate=RATE,
    )


def _summary(atlas: Atlas, causes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    headings = {
        "channels": "Channel means",
        "low": "Low frequencies",
        "spectrum": "Residual spectrum",
    }
    shown = {key: words for key, words in headings.items() if getattr(atlas, key) is not None}
    rows = []
    for place, name in enumerate(atlas.generators):
        found = [getattr(atlas, key)[place].significant for key in shown]
        cells = [f"{int(one.sum())} of {one.size}" for one in found]
        stated = [_words(causes.get(name, {}).get(key)) for key in CAUSES] if causes else []
        rows.append((name, atlas.images[place], cells, stated))
    return {
        "headings": ["Generator", "Images", *shown.values(), *(CAUSES.values() if causes else ())],
        "rows": rows,
        "causes": bool(causes),
    }


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _spectra(atlas: Atlas) -> list[tuple[str, list[PageImage]]]:
    assert atlas.spectrum is not None
    assert atlas.power is not None
    top = max(float(np.abs(one.kept).max()) for one in atlas.spectrum)
    correlations = np.stack([autocorrelation(power) for power in atlas.power])
    correlations -= correlations.mean(axis=0)
    most = float(np.abs(correlations).max())
    panels = []
    for name, one, correlation in zip(atlas.generators, atlas.spectrum, correlations, strict=True):
        spectrum = signed_map(whole_spectrum(one.kept), top)
        words = f"Residual spectrum of {visible(name)}, deviation from the other generators"
        other = f"Autocorrelation of the residual of {visible(name)}, less the mean of all"
        figures = [
            PageImage("spectrum", words, spectrum),
            PageImage("autocorrelation", other, signed_map(correlation, most)),
        ]
        panels.append((name, figures))
    return panels


def _latents(atlas: Atlas) -> list[tuple[str, list[PageImage], list[tuple[float, bool]]]]:
    assert atlas.low is not None
    assert atlas.channels is not None
    assert atlas.latent is not None
    inverse = [idct_low(torch.from_numpy(one.kept), *atlas.latent).numpy() for one in atlas.low]
    tops = [max(float(np.abs(v).max()) for v in values) for values in (inverse, _kept(atlas))]
    panels = []
    for place, name in enumerate(atlas.generators):
        named = f"of {visible(name)}, a channel beside the other"
        maps = beside(inverse[place]), beside(atlas.low[place].kept)
        figures = [
            PageImage("image", f"Low frequencies {named}", signed_map(maps[0], tops[0], 128)),
            PageImage("dct", f"DCT coefficients {named}", signed_map(maps[1], tops[1], 128)),
        ]
        channel = atlas.channels[place]
        means = list(zip(channel.mean.tolist(), channel.significant.tolist(), strict=True))
        panels.append((name, figures, means))
    return panels


def _kept(atlas: Atlas) -> list[np.ndarray]:
    return [one.kept for one in atlas.low or ()]


def _rows(atlas: Atlas) -> list[tuple[str, list[float]]]:
    assert atlas.distances is not None
    return list(zip(atlas.generators, atlas.distances.tolist(), strict=True))


def _tree(atlas: Atlas) -> Html | None:
    """A dendrogram with the leaves below each other."""
    if atlas.tree is None or not 2 <= len(atlas.generators) <= MAX_LEAVES:
        return None
    top = float(atlas.tree[:, 2].max()) or 1.0
    ticks = tuple((value, f"{value:.2g}") for value in (top, top / 2, 0.0))
    axis = Axis("distance", top, 0.0, ticks)
    words = "Dendrogram of the generators"
    return dendrogram(atlas.tree, atlas.generators, axis, float, words)

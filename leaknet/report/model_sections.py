"""Sections about the model: its branches, its training, the mean leaks, a map of its embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from leakcache.errors import CacheError
from leakcache.names import visible
from leakcache.statistics.planes import dct_low
from leakcache.store.cache import Cache
from leaknet.config import Z0, LatentConfig
from leaknet.data.columns import ImageColumns, load_fold
from leaknet.data.embeddings import Embeddings
from leaknet.features.noise import noise_levels
from leaknet.report.metric_labels import BY_KEY, Figure
from leaknet.report.page import PageImage, beside, signed_map
from leaknet.report.run_data import ScoredRun
from leaknet.report.svg import COLOURS, Axis, Frame, Html, element
from leaknet.report.traces import DCT_SIZE, RATE, Deviation, compared_groups, deviations
from leaknet.training.run_folder import EpochRecord

SLIGHT = 0.02
"""A smaller difference in weight is not worth a sentence."""
MEASURES = tuple(BY_KEY[key] for key in ("top1", "balanced", "macro_auc"))
NAMES = {"latents": "Noisy latents", "statistics": "Statistics"}


def branches(run: ScoredRun) -> dict[str, Any]:
    """Branches with their figures; the attention of a run that weights several noise steps."""
    found = run.metrics["branches"]
    several = len(run.record.config.branches) > 1
    return {
        "alone": _alone(run, found) if several else [],
        "held_out": found["held_out"],
        "weights": found["weights"],
        "measures": MEASURES,
        "attention": _attention(run),
    }


def _alone(run: ScoredRun, found: dict[str, Any]) -> list[tuple[str, float | None, list[Figure]]]:
    """Each branch alone with its weight, and both together, on the test images."""
    rows: list[tuple[str, float | None, dict[str, Any]]] = [
        (f"{NAMES[name]} alone", found["weights"][name], found[name])
        for name in run.record.config.branches
    ]
    return [
        (name, weight, [Figure.of(group, m.key) for m in MEASURES])
        for name, weight, group in (*rows, ("Both", None, run.closed["prototype"]))
    ]


def _attention(run: ScoredRun) -> dict[str, Any] | None:
    """Mean weight and middle 80 % of the images, by set of images and step."""
    branch, embeddings = run.latents, run.embeddings
    if branch is None or not branch.attention or len(branch.timesteps) < 2 or embeddings is None:
        return None
    test, unknown = embeddings.select("test"), embeddings.select("open")
    sets = [("All test images", test.attention)]
    sets += [(name, test.attention[test.labels == name]) for name in embeddings.classes]
    sets += [
        (f"{name} (unknown)", unknown.attention[unknown.labels == name])
        for name in np.unique(unknown.labels).tolist()
    ]
    mean = test.attention.mean(axis=0)
    uneven = float(np.abs(mean - 1 / len(branch.timesteps)).max()) >= SLIGHT
    return {
        "rows": [(name, _weights(values)) for name, values in sets if len(values)],
        "headings": [f"t = {step}" for step in branch.timesteps],
        "even": 1 / len(branch.timesteps),
        "heaviest": branch.timesteps[int(mean.argmax())] if uneven else None,
        "weight": float(mean.max()),
        "varies": float(test.attention.std(axis=0).max()) >= SLIGHT,
    }


def _weights(values: np.ndarray) -> list[Figure]:
    low, high = np.quantile(values, (0.1, 0.9), axis=0)
    means = values.mean(axis=0)
    ends = zip(means.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Figure(mean, (a, b)) for mean, a, b in ends]


def training(run: ScoredRun) -> dict[str, Any]:
    """Loss and validation figures by epoch of each branch; none where no history was kept."""
    histories = {
        name: [record for record in run.history if record.branch == name]
        for name in run.record.config.branches
    }
    limit = run.record.config.train.epochs
    return {"limit": limit, "branches": [_branch(n, h) for n, h in histories.items() if h]}


def _branch(name: str, history: list[EpochRecord]) -> dict[str, Any]:
    best = ([record for record in history if record.best] or list(history))[-1]
    lowest = min(history, key=lambda record: record.val_loss)
    overfit = lowest.epoch < best.epoch and best.val_loss > 1.1 * lowest.val_loss
    loss, quality = _epoch_curves(history, best.epoch)
    return {
        "name": name,
        "title": NAMES[name],
        "best": best,
        "epochs": len(history),
        "overfit_since": lowest.epoch if overfit else None,
        "duration": _duration(sum(record.seconds for record in history)),
        "loss": loss,
        "quality": quality,
    }


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _epoch_curves(history: list[EpochRecord], kept: int) -> tuple[Html, Html]:
    epochs = [record.epoch for record in history]
    losses = {
        "c0": [record.loss for record in history],
        "c1": [record.val_loss for record in history],
    }
    quality = {
        "c2": [record.val_macro_auc for record in history],
        "c3": [record.val_top1 for record in history],
    }
    top = max(max(values) for values in losses.values())
    axis = Axis.spanning("cross-entropy", 0.0, 1.05 * top)
    return (
        _epoch_panel(epochs, losses, axis, kept, "Loss by epoch"),
        _epoch_panel(epochs, quality, Axis.fraction("value"), kept, "Validation metrics by epoch"),
    )


def _epoch_panel(
    epochs: list[int], lines: dict[str, list[float]], y: Axis, kept: int, description: str
) -> Html:
    frame = Frame(_epoch_axis(epochs), y)
    marks: list[Html | None] = [*frame.vertical(float(kept), "kept", "")] if len(epochs) > 1 else []
    for class_, values in lines.items():
        marks.append(frame.line(epochs, values, class_))
        if len(epochs) <= 30:
            marks.append(frame.dots(np.column_stack([epochs, values]), f"{class_} mark"))
    return frame.draw(description, *marks)


def _epoch_axis(epochs: list[int]) -> Axis:
    first, last = epochs[0], epochs[-1]
    positions = np.unique(np.linspace(first, last, 6).round().astype(int)).tolist()
    margin = 0.5 if first == last else 0.0
    ticks = tuple((float(position), str(position)) for position in positions)
    return Axis("epoch", first - margin, last + margin, ticks)


HEIGHT = 48
"""Of a map in pixels."""
CLEAN = "no noise"


def leak(run: ScoredRun) -> dict[str, Any] | None:
    """Maps before and after noise; None without a branch of latents, or where the cache is gone."""
    if run.latents is None or run.record.cache is None:
        return None
    try:
        cache = Cache.open(Path(run.record.cache.folder))
        images = load_fold(cache, "train", [Z0])
    except CacheError:
        return None
    names, counts = np.unique(images.labels, return_counts=True)
    if counts.min() < 2:
        return None
    found = step_deviations(run.latents, images)
    top = max(float(np.abs(one.mean).max()) for own in found.values() for one in own)
    rows = [
        (visible(name), [_leak_cell(step, name, own[place], top) for step, own in found.items()])
        for place, name in enumerate(names.tolist())
    ]
    return {
        "rows": rows,
        "headings": list(found),
        "ratios": list(zip(run.latents.timesteps, _ratios(run.latents), strict=True)),
        "size": found[CLEAN][0].mean.shape[1],
        "channels": images.z0.shape[2],
        "images": len(images),
        "rate": RATE,
    }


def step_deviations(branch: LatentConfig, images: ImageColumns) -> dict[str, tuple[Deviation, ...]]:
    """Of the low DCT coefficients of z_t / σ_t, by generator, for no noise and each t.

    Coefficients are in units of their standard deviation. The DCT is orthonormal, so their noise
    is standard normal; it is drawn anew here.
    """
    z0 = images.z0.float().mean(dim=1)  # over the views
    clean = dct_low(z0, min(DCT_SIZE, *z0.shape[2:])).double().numpy()
    _, targets = np.unique(images.labels, return_inverse=True)
    groups, _ = compared_groups(images.groups, targets)
    scale = np.maximum(clean.std(axis=0), 1e-6)
    found = {CLEAN: deviations(clean / scale, targets, groups)}
    if not branch.noise:
        return found
    rng, variance = np.random.default_rng(0), 1 / images.views
    for step, ratio in zip(branch.timesteps, _ratios(branch), strict=True):
        noise = rng.standard_normal(clean.shape) * np.sqrt(variance)
        spread = np.sqrt(np.square(ratio * scale) + variance)
        found[f"t = {step}"] = deviations((ratio * clean + noise) / spread, targets, groups)
    return found


def _ratios(branch: LatentConfig) -> list[float]:
    ratios: list[float] = noise_levels(branch.schedule, branch.timesteps).ratio.tolist()
    return ratios


def _leak_cell(step: str, name: str, one: Deviation, top: float) -> tuple[PageImage, int, int]:
    """The map of a generator at a step, and how many of its coefficients differ."""
    words = f"Mean DCT coefficients of {visible(name)}, {step}, channel beside channel"
    side = max(HEIGHT // 2, HEIGHT * 4 // len(one.mean))
    picture = signed_map(beside(one.mean), top, side)
    return PageImage("", words, picture), int(one.significant.sum()), one.significant.size


POINTS = 6000
"""Points drawn at most; beyond that every n-th image of each set."""
NEIGHBOURS = 1000
"""Points of t-SNE at most; a thousand take some seconds."""
PERPLEXITY = 30


def pca_map(run: ScoredRun) -> dict[str, Any]:
    """All generators in one drawing, and one panel each over the faint cloud of all test images."""
    if run.embeddings is None:
        return {"panels": [], "reason": "The run holds no embeddings.h5, so nothing can be drawn."}
    train, test = run.embeddings.select("train"), run.embeddings.select("test")
    if min(len(train), train.coordinates.shape[1]) < 2:
        return {"panels": [], "reason": "Too few images or dimensions for a plane."}
    plane = PCA(2, svd_solver="full").fit(train.coordinates.astype(np.float64))
    unknown = run.embeddings.select("open")
    return {
        "panels": _map_panels(plane, test, unknown),
        **_together(test, unknown),
        "explained": np.nan_to_num(plane.explained_variance_ratio_).tolist(),
        "unknown": len(unknown) > 0,
    }


def _map_panels(plane: PCA, test: Embeddings, unknown: Embeddings) -> list[tuple[str, Html]]:
    test, unknown = (_thinned(e, POINTS // 2) for e in (test, unknown))
    points, others = (_project(plane, e) for e in (test, unknown))
    frame = _map_frame(np.concatenate([points, others]))
    right = test.logits.argmax(axis=1) == test.targets
    panels: list[tuple[str, Html]] = []
    for name in test.classes:
        own = test.labels == name
        marks = [
            frame.dots(points[own & right], "known"),
            frame.dots(points[own & ~right], "wrong"),
        ]
        panels.append((name, _map_panel(frame, name, points, marks, first=not panels)))
    for name in np.unique(unknown.labels).tolist():
        marks = [frame.dots(others[unknown.labels == name], "unknown")]
        panels.append((f"{name} (unknown)", _map_panel(frame, name, points, marks, first=False)))
    return panels


def _together(test: Embeddings, unknown: Embeddings) -> dict[str, Any]:
    """All generators by t-SNE, the unknown ones below the known."""
    test, unknown = (_thinned(e, NEIGHBOURS // 2) for e in (test, unknown))
    vectors = np.concatenate([test.coordinates, unknown.coordinates]).astype(np.float64)
    if len(vectors) < 4 or not np.ptp(vectors, axis=0).any():
        return {"together": None}
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    plane = TSNE(2, perplexity=perplexity, random_state=0)
    points: np.ndarray = plane.fit_transform(vectors).astype(np.float64)
    frame = _map_frame(points, width=640, height=400)
    colours = [(name, f"c{number}") for number, name in enumerate(test.classes)]
    if len(colours) > COLOURS:
        colours = [("known generators", "c0")]
    marks = [frame.dots(points[len(test) :], "other")]
    for name, class_ in colours:
        own = (test.labels == name) | (len(colours) == 1)
        marks.append(frame.dots(points[: len(test)][own], f"{class_} mark"))
    drawing = frame.draw("Embeddings of all generators", *marks)
    return {"together": drawing, "colours": colours, "drawn": len(vectors)}


def _project(plane: PCA, embeddings: Embeddings) -> np.ndarray:
    vectors = embeddings.coordinates.astype(np.float64)
    points: np.ndarray = plane.transform(vectors) if len(vectors) else np.empty((0, 2))
    return points


def _map_panel(
    frame: Frame, name: str, points: np.ndarray, marks: list[Html | None], *, first: bool
) -> Html:
    again = None if first else element("use", href="#cloud")
    cloud = again or frame.dots(points, "cloud", name="cloud")
    return frame.draw(f"Embeddings of {name} among all test images", cloud, *marks)


def _map_frame(points: np.ndarray, width: int = 230, height: int = 210) -> Frame:
    (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
    across, up = 0.04 * (right - left), 0.04 * (top - bottom)
    x, y = Axis("", left - across, right + across), Axis("", bottom - up, top + up)
    return Frame(x, y, width=width, height=height, left=12, bottom=8, top=8)


def _thinned(embeddings: Embeddings, limit: int) -> Embeddings:
    """Every n-th row, where there are more than `limit`."""
    return embeddings.take(np.arange(0, len(embeddings), -(-len(embeddings) // limit) or 1))

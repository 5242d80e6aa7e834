"""Temporal attention: how much each noise step counts, by generator."""

from __future__ import annotations

import numpy as np

from leaknet.data.embeddings import Embeddings
from leaknet.report.fold_report_markup import Html, element, join
from leaknet.report.html import Section, measured, paragraph, row_name, table
from leaknet.report.metric_labels import Figure, Measure
from leaknet.report.run_data import ScoredRun

SLIGHT = 0.02
"""Differences in weight below this are not worth a word."""
_WEIGHT = Measure("weight", "Weight", "Mean attention weight.")


def attention_section(run: ScoredRun) -> Section:
    """Mean weight and spread of each step on the test images."""
    return Section("attention", "Which noise steps count", "Attention", _body(run))


def _body(run: ScoredRun) -> Html:
    steps = run.record.config.features.timesteps
    if run.embeddings is None:
        return paragraph("The run holds no embeddings.h5, so the weights cannot be shown.")
    if len(steps) == 1:
        return paragraph(
            f"The network looks at a single step, t = {steps[0]}: there is nothing to weigh."
        )
    if not run.record.config.model.attention:
        return paragraph(
            f"Attention is switched off (model.attention = false): each of the {len(steps)} steps "
            "counts alike."
        )
    return join(_words(run.embeddings.select("test"), steps), _weights(run.embeddings, steps))


def _words(test: Embeddings, steps: tuple[int, ...]) -> Html:
    mean = test.attention.mean(axis=0)
    even = 1 / len(steps)
    spread = test.attention.std(axis=0).max()
    if np.abs(mean - even).max() >= SLIGHT:
        heaviest = steps[int(mean.argmax())]
        finding = f"On these images t = {heaviest} counts most, {mean.max():.2f} on average."
    elif spread >= SLIGHT:
        finding = "On average all steps count about alike here, but single images differ."
    else:
        finding = (
            "On these images it hardly does: all steps count about alike, so that the network "
            "as good as averages them."
        )
    return paragraph(
        "The network sees each latent at several noise steps t and weighs them by its attention "
        f"before it decides; the weights of an image sum to 1. {finding}"
    )


def _weights(embeddings: Embeddings, steps: tuple[int, ...]) -> Html:
    test, unknown = embeddings.select("test"), embeddings.select("open")
    sets = [("All test images", test.attention)]
    sets += [(name, test.attention[test.labels == name]) for name in embeddings.classes]
    sets += [
        (f"{name} (unknown)", unknown.attention[unknown.labels == name])
        for name in np.unique(unknown.labels).tolist()
    ]
    rows = [
        [row_name(name), *(_weight(values[:, i], len(steps)) for i in range(len(steps)))]
        for name, values in sets
        if len(values)
    ]
    legend = paragraph(
        "Mean weight, and the range of the middle 80 % of the images. Drawn from 0 to 1: mean "
        "(line), that range (band), equal weights (dotted).",
        class_="legend",
    )
    headings = [element("span", f"t = {step}") for step in steps]
    return join(table(["Images of", *headings], rows, class_="compact"), legend)


def _weight(values: np.ndarray, steps: int) -> Html:
    low, high = np.quantile(values, (0.1, 0.9)).tolist()
    return measured(_WEIGHT, Figure(float(values.mean()), (low, high)), 1 / steps)

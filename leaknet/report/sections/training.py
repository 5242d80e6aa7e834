"""How the training went, and which epoch was kept."""

from __future__ import annotations

import numpy as np

from leaknet.data.embeddings import Embeddings
from leaknet.report.html import (
    Html,
    Section,
    charts,
    element,
    join,
    measured,
    paragraph,
    row_name,
    table,
)
from leaknet.report.metric_labels import Figure, Measure, percent, plain
from leaknet.report.run_data import ScoredRun
from leaknet.report.svg import Axis, Frame
from leaknet.training.history import EpochRecord


def training_section(run: ScoredRun) -> Section:
    """Loss and validation figures by epoch."""
    if run.history:
        body = join(_words(run), _curves(run.history))
    else:
        body = paragraph("The run kept no history.jsonl, so its training cannot be shown.")
    return Section("training", "How it was trained", "Training", body)


def _words(run: ScoredRun) -> Html:
    epochs, limit = len(run.history), run.record.config.train.epochs
    best = _kept(run.history)
    sentences = [
        f"Epoch {best.epoch} of {epochs} was kept: of all epochs its macro AUC on the validation "
        f"images, {plain(best.val_macro_auc)}, is the highest (top-1 there "
        f"{percent(best.val_top1)})."
    ]
    if epochs < limit:
        sentences.append(f"Training was stopped before the {limit} epochs that were set.")
    if best.epoch == epochs > 1:
        sentences.append("The last epoch is the best, so training for longer may still help.")
    lowest = min(run.history, key=lambda record: record.val_loss)
    if lowest.epoch < best.epoch and best.val_loss > 1.1 * lowest.val_loss:
        sentences.append(
            f"The loss on validation images has risen since epoch {lowest.epoch}: the network "
            "grows surer than it has reason to be, so do not take its probabilities at their word."
        )
    seconds = sum(record.seconds for record in run.history)
    sentences.append(f"All of it took {_duration(seconds)}.")
    return paragraph(" ".join(sentences))


def _kept(history: tuple[EpochRecord, ...]) -> EpochRecord:
    return ([record for record in history if record.best] or list(history))[-1]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _curves(history: tuple[EpochRecord, ...]) -> Html:
    kept = _kept(history).epoch
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
    loss = _panel(epochs, losses, Axis.spanning("cross-entropy", 0.0, 1.05 * top), kept)
    return charts(
        (_title("Loss", c0="training", c1="validation"), loss),
        (
            _title("Validation images", c2="macro AUC", c3="top-1"),
            _panel(epochs, quality, Axis.share("AUC, share"), kept),
        ),
    )


def _title(text: str, **keys: str) -> Html:
    named = [
        element("span", element("span", class_=f"key {key}"), name, class_="keyed")
        for key, name in keys.items()
    ]
    return join(text, named)


def _panel(epochs: list[int], lines: dict[str, list[float]], y: Axis, kept: int) -> Html:
    frame = Frame(_epoch_axis(epochs), y)
    marks: list[Html | None] = [*frame.vertical(float(kept), "kept", "")] if len(epochs) > 1 else []
    for class_, values in lines.items():
        marks.append(frame.line(epochs, values, class_))
        if len(epochs) <= 30:
            marks.append(frame.dots(np.column_stack([epochs, values]), f"{class_} mark"))
    return frame.draw("Training by epoch", *marks)


def _epoch_axis(epochs: list[int]) -> Axis:
    first, last = epochs[0], epochs[-1]
    places = np.unique(np.linspace(first, last, 6).round().astype(int)).tolist()
    margin = 0.5 if first == last else 0.0
    ticks = tuple((float(place), str(place)) for place in places)
    return Axis("epoch", first - margin, last + margin, ticks)


# Temporal attention: how much each noise step counts, by generator.

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
    return join(
        _words_attention(run.embeddings.select("test"), steps), _weights(run.embeddings, steps)
    )


def _words_attention(test: Embeddings, steps: tuple[int, ...]) -> Html:
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

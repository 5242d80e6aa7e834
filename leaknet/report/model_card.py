"""The model card of a run, in Markdown: data, controls, figures, intended use, limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from leakcache.errors import RunError
from leakcache.files import parse_json
from leaknet.checksums import read_text
from leaknet.model.run_record import RunRecord
from leaknet.report.metric_labels import CLOSED, OPEN, Figure, Measure, interval_text
from leaknet.report.related import find_related
from leaknet.report.run_data import ScoredRun

HEADER = """\
---
library_name: leaknet
pipeline_tag: image-classification
tags:
- image-forensics
- attribution
# license: name yours here, for example mit
---
"""
USE = """\
## Intended use

Research, and a lead for an analyst who knows the method: which of the generators above made an
image, or none of them. The answer is calibrated evidence about pixels, no proof. Do not base a
decision about a person on it alone.

```bash
pip install leaknet
leak score image.png --run OWNER/NAME
```

## Limits

- It knows the generators above only. *Known* means known to this run; images of other generators,
  photographs and edited images should be called unknown, but often are not: see the figures.
- Figures hold for images from the same collection. The same generators from another pipeline are
  recognised far less often.
- Resizing, compression and editing weaken the traces that are measured.
- File format, size and JPEG tables may identify a generator without any signal leak; see the
  controls above.
- embeddings.h5 holds the names and SHA-256 of the images it was trained and evaluated on.

## Licence

Not stated by the author so far: add `license:` to the head of this file.
"""


def model_card(folder: Path) -> str:
    """The card of a run; figures of the test fold where it is scored, else of validation.

    Raises:
        RunError: the folder is no run, or damaged.
    """
    record = RunRecord.read(folder)
    try:
        scored: ScoredRun | None = ScoredRun.read(folder)
    except RunError:
        scored = None
    lines = [HEADER, f"# {folder.resolve().name}", "", *_model(record), "", *_data(folder, record)]
    lines += ["", *_controls(scored), "", *_figures(folder, scored), "", USE]
    return "\n".join(lines)


def _model(record: RunRecord) -> Iterator[str]:
    config = record.config
    yield (
        "Attribution of images to generators by signal leaks (Proto-LeakNet, "
        "[arXiv 2511.04260](https://arxiv.org/abs/2511.04260)), trained with `leak`: preset "
        f"{config.preset}, seed {config.train.seed}, branches {', '.join(config.branches)}."
    )
    yield ""
    yield f"Known generators ({len(record.classes)}): {', '.join(map(_code, record.classes))}."


def _data(folder: Path, record: RunRecord) -> Iterator[str]:
    yield "## Data"
    yield ""
    images = _metrics(folder).get("images")
    if images:
        yield f"- Images: {', '.join(f'{count:,} {fold}' for fold, count in images.items())}."
    if record.cache is None:
        yield "- The cache that it was trained on is not recorded."
        return
    encoding = record.cache.encoding
    vae, cut = encoding.autoencoder, encoding.preprocessing
    yield f"- Training images, labels and groups: SHA-256 {_code(record.cache.training_sha256)}."
    track = f", canonical form of {cut.canonical_size} pixels" if cut.canonical else ""
    yield f"- Views: {cut.name}, {cut.size} pixels, {cut.views} an image{track}."
    yield (
        f"- Autoencoder: {vae.name} ({vae.kind}), from {_code(vae.source)}, weights SHA-256 "
        f"{_code(vae.weights_sha256)}. It is not part of this repository; name it with --vae where "
        "`leak` does not find it."
    )


def _controls(scored: ScoredRun | None) -> Iterator[str]:
    yield "## Leak controls"
    yield ""
    audits = find_related(scored).audits if scored else ()
    if not audits:
        yield (
            "No audit of this data was found when the card was written: whether file format or "
            "size identify the generator is not known. Run `leak audit`."
        )
    for audit in audits:
        yield f"Findings of `leak audit` on {audit.get('images', 'the')} images:"
        yield ""
        for finding in audit["findings"]:
            yield f"- {finding['level']}: {_plain(finding['sentence'])}"


def _figures(folder: Path, scored: ScoredRun | None) -> Iterator[str]:
    yield "## Figures"
    yield ""
    metrics = _metrics(folder)
    name = "test fold" if "closed" in metrics else "validation fold, on which it was selected"
    group = metrics.get("closed") or metrics.get("validation")
    if group is None:
        yield "None: `leak score` has not been run."
        return
    yield f"Known generators, {name}:"
    yield ""
    yield from _table(CLOSED, group)
    if metrics.get("open"):
        yield ""
        yield f"Unknown generators, detector {metrics['open']['detector']}:"
        yield ""
        yield from _table(OPEN, metrics["open"])
    yield ""
    yield (
        f"95 % bootstrap intervals over images, resampled by prompt group, of one training "
        f"(seed {metrics['seed']}). They do not cover the training seed."
    )
    for table in find_related(scored).tables if scored else ():
        if table.title.endswith("over seeds"):
            yield ""
            yield f"{table.title}. {' '.join(table.notes)}"
            yield ""
            yield f"| {table.first} | {' | '.join(m.name for m in table.measures)} |"
            yield "|---" * (1 + len(table.measures)) + "|"
            for row in table.rows:
                shown = [_shown(*pair) for pair in zip(table.measures, row.figures, strict=True)]
                yield f"| {_plain(row.name)} | {' | '.join(shown)} |"


def _table(measures: Sequence[Measure], group: dict[str, Any]) -> Iterator[str]:
    yield "| figure | value | 95 % interval | meaning |"
    yield "|---|---|---|---|"
    for measure in measures:
        figure = Figure.of(group, measure.key)
        if figure.value is not None:
            ends = interval_text(measure, figure)
            yield f"| {measure.name} | {measure.show(figure.value)} | {ends} | {measure.meaning} |"


def _shown(measure: Measure, figure: Figure) -> str:
    ends = interval_text(measure, figure)
    return f"{measure.show(figure.value)} ({ends})" if ends else measure.show(figure.value)


def _metrics(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); run `leak score` again") from error
    return found


def _code(text: str) -> str:
    """A value as Markdown code on one line."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"


def _plain(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    line = " ".join(str(text).split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in line)

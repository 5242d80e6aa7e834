"""What to believe: in words, how the figures of this run may and may not be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from leaknet.report.html import (
    Html,
    Section,
    bullets,
    cell,
    counted,
    element,
    enumerate_words,
    heading,
    join,
    paragraph,
    row_name,
    strong,
    table,
)
from leaknet.report.metric_labels import MISSING, percent, whole_percent
from leaknet.report.run_data import ScoredRun
from leaknet.report.sections.open_set import ALPHA, called_unknown


def reading_section(run: ScoredRun) -> Section:
    """Statements on chance, intervals, verdicts, thresholds, folds and controls."""
    items = [
        _closed_verdict(run),
        _intervals(run),
        _seed(run),
        _validation(run),
        *_open(run),
        *_prompts(run),
        *_pixels(run),
    ]
    body = join(bullets(items), heading("Controls"), _controls(run))
    return Section("reading", "What to believe", "What to believe", body)


def _closed_verdict(run: ScoredRun) -> Html:
    return join(
        strong("A name is a choice among the known. "),
        f"The closed-set figures hold for images of these {len(run.classes)} generators and no "
        "others. The network always names one of them, and the probability beside the name is a "
        "share among them, not a chance that the image is theirs.",
    )


def _intervals(run: ScoredRun) -> Html:
    text = (
        "95 % intervals cover the choice of images: 1,000 times, prompt groups were drawn with "
        "replacement, each with all of its images. They do not cover the training seed, "
        "nor images of another kind. They lie too low for OVL and too high "
        "for ECE."
    )
    if not run.closed["prototype"]["interval"]["top1"]:
        text = (
            "There are none: the images form too few prompt groups to tell how far chance "
            "carries. Differences between figures on this page mean little."
        )
    return join(strong("Intervals. "), text)


def _seed(run: ScoredRun) -> Html:
    return join(
        strong("One training run. "),
        f"All figures come from seed {run.metrics['seed']}. Another seed gives other weights and "
        "other figures, and nothing on this page says how different: train several before you "
        "compare settings.",
    )


def _validation(run: ScoredRun) -> Html:
    return join(
        strong("What was chosen where. "),
        f"The epoch was chosen on {counted(run.metrics['images']['val'], 'validation image')}; "
        "bandwidths, thresholds and all else that the detectors learn come from training and "
        "validation images of known generators. No test image and no image of an unknown "
        "generator took part in any choice.",
    )


def _open(run: ScoredRun) -> Iterator[Html]:
    if run.open is None:
        yield join(
            strong("Unknown generators were not tried. "),
            "Nothing here says what happens to an image of a generator that is not on the list.",
        )
        return
    yield join(
        strong("Near 0.5 is guessing. "),
        "An AUROC of 0.5, an EER of 50 % or an FPR@95 of 95 % is what a coin toss gets. A "
        "generator whose AUROC has an interval across 0.5 is not told from the known ones here.",
    )
    yield join(strong("“Known” is not “made by one of these”. "), _known(run))
    yield join(
        strong("Other strangers may differ. "),
        f"The unknown here are {enumerate_words(run.unknown)}. A generator that lies closer to a "
        "known one than these do, such as a fine-tuned copy, will be harder to notice.",
    )


def _known(run: ScoredRun) -> str:
    text = (
        f"It means: no stranger than the strangest {whole_percent(ALPHA)} of the validation "
        "images. "
    )
    missed = {}
    for name in run.unknown:
        alarms = called_unknown(run, "open", name)
        if alarms is not None:
            missed[name] = 1 - float(alarms.mean())
    if not missed:
        return text + "Images of other generators can pass as well."
    worst = max(missed, key=lambda name: missed[name])
    return text + (
        f"Of the images of {worst}, which was never trained on, {percent(missed[worst])} would "
        "not be called unknown."
    )


def _prompts(run: ScoredRun) -> Iterator[Html]:
    if run.embeddings is None:
        return
    groups = run.embeddings.groups.tolist()
    trained = set(run.embeddings.select("train").groups.tolist())
    tested = run.embeddings.select("test").groups.tolist()
    shared = sum(group in trained for group in tested)
    if shared:
        yield join(
            strong("Prompts cross the folds. "),
            f"{shared:,} of {counted(len(tested), 'test image')} belong to a prompt group that was "
            "also trained on, so that content may be recognised in place of the generator.",
        )
    elif len(set(groups)) == len(groups):
        yield join(
            strong("Prompts are not known. "),
            "Each image counts as a prompt group of its own. Should images of one prompt lie in "
            "several folds, content may be recognised in place of the generator, and the "
            "intervals are too narrow.",
        )
    else:
        yield join(
            strong("Prompts are new. "),
            "No prompt group of the test images occurs among the training images.",
        )


def _pixels(run: ScoredRun) -> Iterator[Html]:
    cache = run.record.cache
    if cache is not None and cache.encoding.preprocessing.name == "resize":
        size = cache.encoding.preprocessing.size
        yield join(
            strong("Resized images. "),
            f"Every image was scaled to {size} pixels before it was encoded, which takes away "
            "most of the high-frequency evidence; what is left may be content as much as a trace "
            "of the generator.",
        )


def _controls(run: ScoredRun) -> Html:
    controls: Mapping[str, Any] = run.metrics.get("controls") or {}
    if not controls:
        return paragraph(
            strong("Not run. "),
            "File format, image size, JPEG tables and metadata can identify a generator without "
            "any trace in its pixels, and so can an 8×8 thumbnail of what it likes to draw. No "
            "such classifier was trained on these images, so nothing on this page rules out that "
            "the closed-set figures rest on that.",
        )
    columns = list(dict.fromkeys(key for group in controls.values() for key in _scalars(group)))
    rows = [
        [row_name(name), *(cell(_text(_scalars(group).get(key))) for key in columns)]
        for name, group in controls.items()
    ]
    return join(
        paragraph(
            "Classifiers that see no trace of the generator. Where one comes near the figures of "
            "this run, the run has shown nothing that they have not: make the files alike first."
        ),
        table(["Control", *(element("span", key) for key in columns)], rows),
    )


def _scalars(group: Any) -> dict[str, Any]:
    if not isinstance(group, Mapping):
        return {"value": group}
    return {k: v for k, v in group.items() if v is None or isinstance(v, (str, int, float))}


def _text(value: Any) -> str:
    if value is None:
        return MISSING
    return f"{value:.3f}" if isinstance(value, float) else str(value)

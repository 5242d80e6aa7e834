"""An evaluation as tables: which rows, which columns, and the words that belong beside them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leaknet.config import config_to_table
from leaknet.evaluation.closed_set import ClosedSummary
from leaknet.evaluation.open_set import OpenSummary
from leaknet.evaluation.summary import Summary
from leaknet.experiments.answers import KNOWN, AnswerSummary
from leaknet.experiments.attention_modes import MODES, PUBLISHED, REPORTED, WARNING, ModeSummary
from leaknet.experiments.compare_runs import RunComparison
from leaknet.experiments.label_shuffle import ShuffleSummary
from leaknet.experiments.plan import Plan
from leaknet.experiments.real_or_generated import RealSummary
from leaknet.files import write_text

# All figures of an evaluation, and their layout as JSON.


@dataclass(frozen=True)
class LeaveOut:
    """Generators left out in turn.

    Attributes:
        folds: the generators that each training left out.
        detectors: by name, against them.
        closed: naming the generators that remained, one summary a fold.
        answers: as in `Evaluation`, the mean of the folds.
    """

    folds: tuple[tuple[str, ...], ...]
    detectors: dict[str, OpenSummary]
    closed: tuple[ClosedSummary, ...]
    answers: AnswerSummary | None

    def as_dict(self, detector: str) -> dict[str, Any]:
        """Plain values for JSON, for one detector."""
        found = self.detectors[detector]
        return {**found.as_dict(), "folds": self._folds(found), "closed": self._closed()}

    def _folds(self, found: OpenSummary) -> list[dict[str, Any]]:
        return [
            {"left_out": list(names), **{metric: one.value for metric, one in row.items()}}
            for names, row in zip(self.folds, found.folds, strict=True)
        ]

    def _closed(self) -> dict[str, float]:
        """Means over folds and seeds."""
        metrics = self.closed[0].metrics
        return {m: float(np.mean([fold.metrics[m].value for fold in self.closed])) for m in metrics}


@dataclass(frozen=True)
class SeedFacts:
    """What was fixed on closed data under one seed.

    Attributes:
        run: folder of the run on all closed generators.
        model: SHA-256 of its weights.
        settings: by detector, what it chose, such as the bandwidth.
        thresholds: by detector, the score that 95 % of the validation images reach.
    """

    run: Path
    model: str
    settings: dict[str, dict[str, Any]]
    thresholds: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Everything that `leak evaluate` says.

    Attributes:
        plan: what was asked.
        cache: folder of the closed cache.
        classes: the known generators.
        images: by fold, `open` for those of other caches.
        facts: of each seed.
        closed: by scorer (`prototype`, `mahalanobis`), on the test fold.
        validation: the prototype scorer on the fold where choices were made.
        open: by detector, against generators of other caches; empty without any.
        answers: what a user is told; None where the validation fold cannot calibrate.
        leave_out: None where no generator was left out.
        modes: Table 2; empty where it was not asked for.
        real: None where no class is marked real.
        shuffle: None where it was not asked for.
        audit: what the data give away without any training, as `leak audit` says it.
    """

    plan: Plan
    cache: Path
    classes: tuple[str, ...]
    images: dict[str, int]
    facts: tuple[SeedFacts, ...]
    closed: dict[str, ClosedSummary]
    validation: ClosedSummary
    open: dict[str, OpenSummary]
    answers: AnswerSummary | None
    leave_out: LeaveOut | None
    modes: dict[str, ModeSummary]
    real: RealSummary | None
    shuffle: ShuffleSummary | None
    audit: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; parts that were not asked for are absent."""
        return {
            "protocol": self._protocol(),
            "images": self.images,
            "closed": {
                **self.closed["prototype"].as_dict(),
                "mahalanobis": self.closed["mahalanobis"].as_dict(),
            },
            "validation": self.validation.as_dict(),
            "answers": self._answers(),
            **self._unknown(),
            **({"table2": {n: m.as_dict() for n, m in self.modes.items()}} if self.modes else {}),
            **({"real": self.real.as_dict()} if self.real else {}),
            "controls": self._controls(),
            "seeds": {str(c.train.seed): self._seed(i) for i, c in enumerate(self.plan.configs)},
        }

    def _protocol(self) -> dict[str, Any]:
        return {
            "cache": str(self.cache),
            "classes": list(self.classes),
            "config": config_to_table(self.plan.config),
            "seeds": [config.train.seed for config in self.plan.configs],
            "detectors": [kind.name for kind in self.plan.kinds],
            "reported": self.plan.reported,
            "leave_out": self.plan.leave_out,
            "folds": [list(fold) for fold in self.leave_out.folds] if self.leave_out else [],
            "real": list(self.plan.real),
        }

    def _unknown(self) -> dict[str, Any]:
        """Open and leave-out figures: the reported detector on top, then all of them."""
        reported, left = self.plan.reported, self.leave_out
        tables: dict[str, dict[str, Any]] = {kind.name: {} for kind in self.plan.kinds}
        for name, table in tables.items():
            if self.open:
                table["open"] = self.open[name].as_dict()
            if left:
                table["leave_out"] = left.as_dict(name)
        return {**tables[reported], "detectors": tables} if self.open or left else {}

    def _answers(self) -> dict[str, Any]:
        """Of the runs on all generators, and with generators left out."""
        found = {"all": self.answers, "leave_out": self.leave_out and self.leave_out.answers}
        return {name: one.as_dict() for name, one in found.items() if one}

    def _controls(self) -> dict[str, Any]:
        shuffle = {"label_shuffle": self.shuffle.as_dict()} if self.shuffle else {}
        return shuffle | ({"audit": self.audit} if self.audit else {})

    def _seed(self, number: int) -> dict[str, Any]:
        """The same figures under one seed."""

        def pick(summary: Summary) -> float:
            return summary.seeds[number]

        facts, reported = self.facts[number], self.plan.reported
        found = {
            "run": str(facts.run),
            "model": facts.model,
            "settings": facts.settings,
            "thresholds": facts.thresholds,
            "closed": {
                **self.closed["prototype"].nested(pick),
                "mahalanobis": self.closed["mahalanobis"].nested(pick),
            },
            "validation": self.validation.nested(pick),
        }
        if self.open:
            found["open"] = self.open[reported].nested(pick)
        if self.leave_out:
            found["leave_out"] = self.leave_out.detectors[reported].nested(pick)
        return found


CLOSED = {"top1": "top-1", "balanced": "balanced", "macro_auc": "macro AUC", "ece": "ECE"}
OPEN = {
    "auroc": "AUROC",
    "aupr": "AUPR",
    "fpr95": "FPR@95",
    "eer": "EER",
    "ovl": "OVL",
    "oscr": "OSCR",
}
RATES = {
    "ccr1": "CCR@1%",
    "ccr5": "CCR@5%",
    "ccr10": "CCR@10%",
    "known_accepted": "known accepted",
    "unknown_accepted": "unknown accepted",
}
LEGEND = (
    "Mean over seeds ± sample sd over seeds (95 % interval of the mean over images, prompt "
    "groups drawn with replacement)."
)
NO_INTERVAL = "No interval where a set of images has a single prompt group."


@dataclass(frozen=True)
class Grid:
    """One table.

    Attributes:
        title: what it answers.
        headings: of the columns, the first that of the rows.
        rows: cells as text.
        notes: sentences that must be read with it.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = field(default=())


def evaluation_tables(result: Evaluation) -> list[Grid]:
    """All tables of an evaluation, controls first: they decide how the rest is read."""
    grids = [_audit(result.audit)] if result.audit else []
    if result.shuffle is not None:
        grids.append(_shuffle(result.shuffle))
    grids.append(_closed(result))
    reported = result.plan.reported
    if result.open:
        grids += _open("Open set: generators of other data", result.open, reported)
    if result.leave_out:
        grids += _leave_out(result.leave_out, reported)
    grids += _answers(result)
    if result.modes:
        grids.append(_modes(result))
    if result.real:
        grids.append(_real(result.real))
    return grids


def comparison_table(result: RunComparison) -> Grid:
    """B minus A, metric by metric."""
    rows = [("closed", name, one) for name, one in result.closed.items()]
    rows += [(f"open, {result.detector}", name, one) for name, one in result.open.items()]
    return Grid(
        f"B ({result.b}) minus A ({result.a})",
        ("set", "metric", "difference", "95 % interval", "p"),
        tuple(
            (where, name, f"{d.value:+.4f}", f"{d.low:+.4f} to {d.high:+.4f}", f"{d.p:.4f}")
            for where, name, d in rows
        ),
        (
            "Paired on the same images and clustered by prompt group; two-sided p, by sign "
            "flips for top-1 and by the bootstrap elsewhere. One run against one run: other "
            "training seeds may differ by as much.",
        ),
    )


def cell(summary: Summary) -> str:
    """Mean, spread over seeds and interval, as far as there are such."""
    text = f"{summary.value:.3f}"
    if summary.sd is not None:
        text += f" ± {summary.sd:.3f}"
    if summary.interval is not None:
        text += f" ({summary.interval[0]:.3f} to {summary.interval[1]:.3f})"
    return text


def _row(name: str, metrics: Mapping[str, Summary], columns: Mapping[str, str]) -> tuple[str, ...]:
    return (name, *(cell(metrics[key]) for key in columns))


def _closed(result: Evaluation) -> Grid:
    rows = [
        _row(f"{name}, test", one.metrics, CLOSED) for name, one in sorted(result.closed.items())
    ]
    rows.append(_row("prototype, validation", result.validation.metrics, CLOSED))
    chance = 1 / len(result.classes)
    notes = (f"Guessing gives top-1 {chance:.3f} on equal classes and macro AUC .5.", LEGEND)
    plain = all(s.interval for one in result.closed.values() for s in one.metrics.values())
    return Grid(
        f"Closed set: which of {len(result.classes)} generators?",
        ("scorer, fold", *CLOSED.values()),
        tuple(rows),
        notes if plain else (*notes, NO_INTERVAL),
    )


def _open(title: str, detectors: Mapping[str, OpenSummary], reported: str) -> list[Grid]:
    one = detectors[reported]
    groups = {"mean": one.mean, "worst": one.worst, **one.generators}
    notes = (
        LEGEND,
        f"worst: the generator that is worst by that metric ({one.worst_by('auroc')} by AUROC).",
    )
    figures = Grid(
        f"{title} ({reported})",
        ("unknown generator", *OPEN.values()),
        tuple(_row(name, metrics, OPEN) for name, metrics in groups.items()),
        notes if one.mean["auroc"].interval else (*notes, NO_INTERVAL),
    )
    rates = Grid(
        f"{title} ({reported}), rates",
        ("unknown generator", *RATES.values()),
        tuple(_row(name, metrics, RATES) for name, metrics in groups.items()),
        (
            "CCR@x: known images accepted and named right where at most x of the unknown are "
            "accepted. The last two: share accepted at the threshold that 95 % of the closed "
            "validation images reach, which is the one a user can set.",
        ),
    )
    more = [_detectors(title, detectors)] if len(detectors) > 1 else []
    return [figures, rates, *more]


def _detectors(title: str, detectors: Mapping[str, OpenSummary]) -> Grid:
    return Grid(
        f"{title}, all detectors",
        ("detector", "AUROC mean", "AUROC worst", "FPR@95 mean", "OSCR mean", "unknown accepted"),
        tuple(
            (
                name,
                cell(one.mean["auroc"]),
                cell(one.worst["auroc"]),
                cell(one.mean["fpr95"]),
                cell(one.mean["oscr"]),
                cell(one.mean["unknown_accepted"]),
            )
            for name, one in detectors.items()
        ),
        (
            "Taking the best row after the fact is a choice made on unknown images: compare rows "
            "with the reported one, which was fixed beforehand.",
        ),
    )


def _leave_out(left: LeaveOut, reported: str) -> list[Grid]:
    folds = Grid(
        "Leave-generators-out, by training",
        ("left out", "AUROC, all of them", "top-1 of the rest", "macro AUC of the rest"),
        tuple(
            (
                " + ".join(names),
                cell(found["auroc"]),
                cell(closed.metrics["top1"]),
                cell(closed.metrics["macro_auc"]),
            )
            for names, found, closed in zip(
                left.folds, left.detectors[reported].folds, left.closed, strict=True
            )
        ),
    )
    return [*_open("Leave-generators-out", left.detectors, reported), folds]


def _answers(result: Evaluation) -> list[Grid]:
    left = result.leave_out.answers if result.leave_out else None
    found = {"": result.answers, ", generators left out": left}
    return [grid for where, one in found.items() if one for grid in _answer_grids(where, one)]


def _answer_grids(where: str, one: AnswerSummary) -> list[Grid]:
    title = f"Answers at a false-alarm rate of {one.alpha:g} ({one.detector}){where}"
    known = Grid(
        f"{title}: images of known generators",
        tuple(key.replace("_", " ") for key in KNOWN),
        (tuple(cell(one.known[key]) for key in KNOWN),),
        (
            f"false alarms: called unknown, {one.alpha:g} on average being promised; coverage: "
            f"the prediction set holds the right generator, {1 - one.alpha:g} being promised. "
            "Cllr in bits: 1 says nothing, min Cllr is what perfect calibration would leave.",
        ),
    )
    if not one.unknown:
        return [known]
    verdicts = ("unknown", "known", "unsure")
    rows = tuple((name, *(cell(row[v]) for v in verdicts)) for name, row in one.unknown.items())
    unknown = Grid(
        f"{title}: images of unknown generators",
        ("generator", "unknown (right)", "named (wrong)", "unsure"),
        rows,
    )
    return [known, unknown]


def _modes(result: Evaluation) -> Grid:
    columns = {name: name for name in REPORTED}
    rows = []
    for mode in MODES:
        found = result.modes[mode]
        if found.unknown is not None:
            rows.append(_row(f"{mode}, open set", found.unknown, columns))
        rows.append(_row(f"{mode}, control", found.control, columns))
        if mode != "both_off":
            rows.append(_row(f"{mode}, control, untrained gate", found.control_untrained, columns))
        published = (f"{value:.4g}" for value in PUBLISHED[mode])
        rows.append((f"{mode}, as published (WILD)", *published))
    return Grid(
        "Table 2: attention modes under KDE",
        ("mode, unknown images", "AUROC", "EER", "OVL"),
        tuple(rows),
        (WARNING, "Control: held-out images of the known generators in the open images' place."),
    )


def _real(real: RealSummary) -> Grid:
    rows = [(f"test, {name}", cell(one)) for name, one in real.known.items()]
    rows += [(f"unknown generators, {name}", cell(one)) for name, one in real.unknown.items()]
    title = f"Real ({', '.join(real.classes)}) or generated?"
    return Grid(title, ("images, metric", "value"), tuple(rows), (LEGEND,))


def _audit(audit: Mapping[str, Any]) -> Grid:
    """What `leaknet.audit.audit` found, in its own words."""
    return Grid(
        "Controls: what the files give away without any training",
        ("finding", "control", "level"),
        tuple((f["sentence"], f["control"], f["level"]) for f in audit["findings"]),
    )


def _shuffle(shuffle: ShuffleSummary) -> Grid:
    low, high = shuffle.chance
    verdict = (
        "As it must be: nothing was learnt from shuffled labels."
        if shuffle.passed
        else "ABOVE CHANCE on shuffled labels: test labels leak into training; distrust the rest."
    )
    return Grid(
        "Control: training on shuffled labels",
        ("macro AUC on test", "top-1 on test", "chance range of macro AUC"),
        ((cell(shuffle.macro_auc), cell(shuffle.top1), f"{low:.3f} to {high:.3f}"),),
        (
            verdict,
            "The chance range permutes the classes' names: it is wider than the interval over "
            "images, because luck falls on generators, not on images.",
        ),
    )


# Tables on the terminal and in Markdown.

JSON = "evaluation.json"
MARKDOWN = "evaluation.md"
WIDTH = 200


def print_grids(grids: Iterable[Grid]) -> None:
    """Print tables and their notes."""
    # Off a terminal rich assumes 80 columns, in which a cell with its interval breaks in three.
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for grid in grids:
        table = Table(title=escape(grid.title), title_justify="left")
        for number, heading in enumerate(grid.headings):
            table.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
        for row in grid.rows:
            table.add_row(*(escape(text) for text in row))
        console.print(table)
        for note in grid.notes:
            console.print(f"[dim]{escape(note)}[/dim]")


def markdown(grids: Sequence[Grid]) -> str:
    """The same as Markdown, one section a table."""
    return "\n".join(_section(grid) for grid in grids)


def write_evaluation(result: Evaluation, out: Path) -> None:
    """Write evaluation.json and evaluation.md into the folder of an evaluation."""
    table = json.dumps(json_ready(result.as_dict()), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(out / JSON, table + "\n")
    write_text(out / MARKDOWN, markdown(evaluation_tables(result)))


def _section(grid: Grid) -> str:
    lines = [f"## {grid.title}", "", _line(grid.headings), _line(["---"] * len(grid.headings))]
    lines += [_line(row) for row in grid.rows]
    for note in grid.notes:
        lines += ["", note]
    return "\n".join([*lines, ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def json_ready(value: Any) -> Any:
    """Values that JSON knows: tuples as lists, what does not exist as null."""
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value

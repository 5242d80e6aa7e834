"""Run every method under every seed, judge it, and go on where one cannot run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leakcache.errors import LeakError, RunError
from leaknet.baselines.base import Peer, PeerOptions
from leaknet.experiments.benchmark.data import BenchData
from leaknet.experiments.benchmark.fold_bench_judging import judge_method
from leaknet.experiments.benchmark.fold_bench_paired import with_behind
from leaknet.experiments.benchmark.fold_bench_trial import PeerTrial, run_trial
from leaknet.experiments.benchmark.tables import BenchResult, BenchRow
from leaknet.experiments.fold_bench_plan import BenchPlan
from leaknet.files import write_text

IDENTITY = "identity.json"

OnResult = Callable[[BenchResult], object]


def run_bench(
    plan: BenchPlan, data: BenchData, out: Path, on_result: OnResult | None = None
) -> BenchResult:
    """Every method of the plan on the same images.

    A method under a seed that is finished in `out` is not trained again; one that cannot run
    gives rows with the reason.

    Args:
        plan: methods and what they share.
        data: images.
        out: folder; a method and seed has `out/METHOD/seedN`.
        on_result: called after each method with all rows so far.

    Raises:
        RunError: `out` holds a bench of other images, other epochs or another precision.
    """
    _claim(out, plan, data)
    rows: list[BenchRow] = []
    trials: dict[str, list[PeerTrial]] = {}
    facts = _facts(plan, data)
    for method in plan.methods:
        try:
            done = _trials(method, plan, data, out)
            rows += judge_method(method.name, done, plan.detector)
            trials[method.name] = done
        except LeakError as error:
            rows += _absent(method, data, str(error))
        rows = with_behind(rows, trials)
        if on_result is not None:
            on_result(BenchResult(tuple(rows), facts))
    return BenchResult(tuple(rows), facts)


def _absent(method: type[Peer], data: BenchData, reason: str) -> list[BenchRow]:
    return [BenchRow(method.name, step, {}, None, None, reason) for step in data.steps]


def _trials(method: type[Peer], plan: BenchPlan, data: BenchData, out: Path) -> list[PeerTrial]:
    return [
        run_trial(
            method,
            data,
            PeerOptions(
                weights=plan.weights,
                epochs=plan.epochs,
                seed=seed,
                device=plan.device,
                precision=plan.precision,
                folder=out / method.name / f"seed{seed}",
            ),
        )
        for seed in range(plan.seeds)
    ]


def _claim(out: Path, plan: BenchPlan, data: BenchData) -> None:
    """Make `out` the folder of this bench, or refuse that of another."""
    path = out / IDENTITY
    mine = {
        "images": data.fingerprint,
        "epochs": plan.epochs,
        "limit": data.limit,
        "precision": plan.precision,
    }
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(mine, indent=1) + "\n")
        return
    try:
        theirs: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path}: is damaged ({error}); take another --out") from error
    changed = [name for name in mine if theirs.get(name) != mine[name]]
    if changed:
        raise RunError(
            f"{out}: holds a bench with other {' and '.join(changed)}; take another --out"
        )


def _facts(plan: BenchPlan, data: BenchData) -> dict[str, Any]:
    judged = next(iter(data.steps.values()))
    return {
        "classes": list(data.classes),
        "images": {
            "train": len(data.train),
            "val": len(data.val),
            "test": len(judged.test),
            "open": sum(len(part) for part in judged.unknown),
        },
        "steps": list(data.steps),
        "seeds": plan.seeds,
        "epochs": plan.epochs,
        "limit": data.limit,
        "precision": plan.precision,
        "detector": plan.detector.name,
    }

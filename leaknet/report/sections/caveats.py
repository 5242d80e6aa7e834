"""How the figures of this run may be read, and the controls of its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leaknet.report.related import Related
from leaknet.report.run_data import ALPHA, ScoredRun


def caveats(run: ScoredRun, related: Related) -> dict[str, Any]:
    """Facts that the statements of the section depend on."""
    cache = run.record.cache
    cut = cache.encoding.preprocessing if cache else None
    weighted = run.metrics["branches"]["weights"].get("latents", 0) > 0
    resized = weighted and cut is not None and cut.name == "resize"
    return {
        "intervals": bool(run.closed["prototype"]["interval"]["top1"]),
        "accepted": _accepted(run),
        "prompts": _prompts(run),
        "resized": cut.size if resized and cut else None,
        "audits": related.audits,
        "controls": _controls(run),
    }


def _accepted(run: ScoredRun) -> tuple[str, float] | None:
    """The unknown generator of which the most images are not called unknown, and the fraction."""
    found = {}
    for name in run.unknown:
        p_values = run.p_values("open", name)
        if p_values is not None:
            found[name] = float((p_values > ALPHA).mean())
    worst = max(found, key=lambda name: found[name], default=None)
    return None if worst is None else (worst, found[worst])


def _prompts(run: ScoredRun) -> dict[str, int] | None:
    """How many test images share a prompt group with training images."""
    if run.embeddings is None:
        return None
    groups = run.embeddings.groups.tolist()
    trained = set(run.embeddings.select("train").groups.tolist())
    tested = run.embeddings.select("test").groups.tolist()
    return {
        "shared": sum(group in trained for group in tested),
        "tested": len(tested),
        "alone": len(set(groups)) == len(groups),
    }


def _controls(run: ScoredRun) -> dict[str, dict[str, Any]]:
    """The scalars of each control in metrics.json."""
    controls: Mapping[str, Any] = run.metrics.get("controls") or {}
    columns = list(dict.fromkeys(key for group in controls.values() for key in _scalars(group)))
    return {
        name: {key: _scalars(group).get(key) for key in columns} for name, group in controls.items()
    }


def _scalars(group: Any) -> dict[str, Any]:
    if not isinstance(group, Mapping):
        return {"value": group}
    return {k: v for k, v in group.items() if v is None or isinstance(v, (str, int, float))}

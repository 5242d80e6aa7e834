"""The figures of an ablation's rows: their keys, and the words for them."""

from __future__ import annotations

MEASURES = {
    "top1": "top-1",
    "macro_auc": "macro AUC",
    "open_auroc": "open AUROC",
    "open_eer": "open EER",
    "open_ovl": "open OVL",
    "control_auroc": "control AUROC",
    "control_eer": "control EER",
    "control_ovl": "control OVL",
    "untrained_auroc": "control AUROC, untrained gate",
}
"""Key in JSON, Parquet and `published`, and heading; in the order in which they are shown."""

KEPT_APART = ("control_eer", "control_ovl")
"""Those that are in JSON and Parquet alone: the table is wide enough."""

CLOSED = ("top1", "macro_auc")
COMPARED = ("top1", "macro_auc", "open_auroc")
"""Those whose difference from the reference row is given, image by image."""

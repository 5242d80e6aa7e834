"""Leak controls: what gives the generator away without any signal leak."""

from leaknet.controls.audit import Audit, audit
from leaknet.controls.findings import Finding
from leaknet.controls.shuffle import shuffle_index, shuffle_labels, shuffle_split

__all__ = ["Audit", "Finding", "audit", "shuffle_index", "shuffle_labels", "shuffle_split"]

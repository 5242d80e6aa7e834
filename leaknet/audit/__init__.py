"""Leak controls: what gives the generator away without any signal leak."""

from leaknet.audit.audit import Audit, audit
from leaknet.audit.findings import Finding
from leaknet.audit.fold_controls_shuffle import shuffle_index, shuffle_labels, shuffle_split

__all__ = ["Audit", "Finding", "audit", "shuffle_index", "shuffle_labels", "shuffle_split"]

"""Leak controls: what gives the generator away without any signal leak."""

from leaknet.audit.audit import Audit, audit
from leaknet.audit.control_classifiers import shuffle_index, shuffle_labels, shuffle_split
from leaknet.audit.findings import Finding

__all__ = ["Audit", "Finding", "audit", "shuffle_index", "shuffle_labels", "shuffle_split"]

"""Leak controls: how well file facts and thumbnails alone identify the generator."""

from leaknet.audit.audit import Audit, audit
from leaknet.audit.findings import Finding

__all__ = ["Audit", "Finding", "audit"]

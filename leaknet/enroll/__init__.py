"""Enrolment: adds a generator to a run from a few images without training, as a new version."""

from leaknet.enroll.enroll import Enrolment, enroll, undo

__all__ = ["Enrolment", "enroll", "undo"]

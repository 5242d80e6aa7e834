"""Enrolment: a new generator from a few images, without training, as a new version of a run."""

from leaknet.enroll.enroll import Enrolment, enroll
from leaknet.enroll.versions import undo

__all__ = ["Enrolment", "enroll", "undo"]

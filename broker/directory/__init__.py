"""The directory: the only writer of users, groups, memberships, units and links."""

from .admission import Admission
from .outcome import EXPLICIT, Loss, Outcome, Skip, members_lost
from .restoring import Part, Refusal, Restored
from .service import Directory

__all__ = [
    "EXPLICIT",
    "Admission",
    "Directory",
    "Loss",
    "Outcome",
    "Part",
    "Refusal",
    "Restored",
    "Skip",
    "members_lost",
]

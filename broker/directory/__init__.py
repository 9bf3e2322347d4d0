"""The directory: the only writer of users, groups, memberships, units and links."""

from .outcome import EXPLICIT, Loss, Outcome, Skip, members_lost
from .service import Directory

__all__ = ["EXPLICIT", "Directory", "Loss", "Outcome", "Skip", "members_lost"]

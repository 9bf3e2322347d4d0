"""From an upstream into the directory: runs, who may work on one, and which are due.

`run` is one of them and where it begins, `reading` its pages and its end, `book` what it writes down of itself;
`leases` let one run at a time read a provider; `queue` is who waits for a run and in which order; `work` does what is
due, several at once. What becomes of a record is the directory's, what may be taken away at the end `removals`'.
"""

from .book import SyncProgress
from .leases import LEASE
from .run import Order, carry_out, pull

__all__ = ["LEASE", "Order", "SyncProgress", "carry_out", "pull"]

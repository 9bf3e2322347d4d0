"""Pages for people: server-made HTML that works without JavaScript and loads nothing from another host.

One module per page; this one is the door they share, and its error page.
"""

from broker.pages import docs
from broker.pages.door import door

__all__ = ["docs", "door"]

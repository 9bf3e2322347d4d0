"""Pages for people: server-made HTML that works without JavaScript and loads nothing from another host.

One module per page; `door` is the one they share, `faces` how those of signing in look, `tenant` whose they are.
"""

from broker.pages import docs, later, launcher, platform, sign_in, sign_out
from broker.pages.door import door

__all__ = ["docs", "door", "later", "launcher", "platform", "sign_in", "sign_out"]

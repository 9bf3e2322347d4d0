"""People signing in: who asks for what, at which upstream, in which browser, and how long it lasts.

`requests` is what an application asked, `flow` one sign-in under way and the decision what comes next, `realms` which
upstream somebody belongs to, `upstream` the way there and back, `consents` what a person allowed, `sessions` browsers
that are signed in, `browser` what is read from a request and kept in cookies. Pages are `broker.pages`, tokens `oidc`.
"""

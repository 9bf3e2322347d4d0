"""The stage on which people of these tests sign in."""

from tests.broker.sign_in.stage import acme, globex, issuer

__all__ = ["acme", "globex", "issuer"]

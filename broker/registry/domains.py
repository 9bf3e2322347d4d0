"""Domains a tenant claims: a token to publish, and at most one tenant in the platform whose claim is verified.

A claim is verified by the token in a TXT record of the domain itself, or by hand. Verified it stays until somebody from
above takes that back, or the tenant gives the domain up: a bad day of the DNS locks nobody out. Who may verify one by
hand is the door's question.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime

import dns.exception
import dns.resolver
import sqlalchemy as sa

from broker import ids
from broker.context import current_actor
from broker.db import db
from broker.errors import Conflict, UpstreamUnavailable, ValidationFailed
from broker.models import Domain
from broker.registry.changes import tell

DNS_SECONDS = 5.0
"""For the whole question, whatever name servers are asked."""

resolver: Callable[[], dns.resolver.Resolver] = dns.resolver.Resolver

_AMBIGUOUS = re.compile("[\u00df\u1e9e\u03c2\u200c\u200d]")
"""Letters that older software writes as others (UTS 46, deviations): two domains, and nobody could tell which."""
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def create(name: str) -> Domain:
    """An unverified claim. Raises ValidationFailed, Conflict."""
    folded = folded_name(name)
    session = db.session()
    if session.scalar(sa.select(Domain.id).where(Domain.name == folded)):
        raise Conflict("The tenant has this domain already")
    domain = Domain(id=ids.new("dom"), name=folded, token=f"scaikey-domain-verification={secrets.token_urlsafe(24)}")
    session.add(domain)
    session.flush()
    tell("domain.created", "Domain", domain.id, {"name": folded})
    return domain


def check_published(name: str, token: str) -> None:
    """Ask the DNS whether the domain says the token, outside any unit of work. Raises Conflict when it does not, and
    UpstreamUnavailable when nobody answers."""
    try:
        found = resolver().resolve(f"{name}.", "TXT", lifetime=DNS_SECONDS, search=False)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer, dns.resolver.YXDOMAIN):
        raise Conflict(f"{name} has no TXT record. Publish one that says {token}") from None
    except dns.exception.DNSException as error:
        detail = f"The name servers of {name} do not answer"
        raise UpstreamUnavailable(detail, note=repr(error), retry_after=60) from None
    if token.encode() not in [b"".join(record.strings).strip() for record in found]:
        raise Conflict(f"No TXT record of {name} says {token}")


def set_verified(domain: Domain, verified: bool, *, by_hand: bool = True) -> None:
    """The claim is proven, or an administrator from above vouches for it or no longer does. Raises Conflict: another
    tenant has it."""
    if domain.verified == verified:
        return
    domain.verified = verified
    domain.verified_at = datetime.now(UTC) if verified else None
    domain.verified_by = (current_actor().id if by_hand else "dns") if verified else None
    try:
        db.session().flush()
    except sa.exc.IntegrityError:
        raise Conflict("Another tenant has verified this domain") from None
    tell("domain.verified" if verified else "domain.unverified", "Domain", domain.id, {"by_hand": by_hand})


def remove(domain: Domain) -> None:
    tell("domain.removed", "Domain", domain.id, {"name": domain.name})
    db.session().delete(domain)
    db.session().flush()


def folded_name(name: str) -> str:
    """A domain name as it is stored: in ASCII and small letters, without a dot at its end. Raises ValidationFailed."""
    if _AMBIGUOUS.search(name):
        raise ValidationFailed(errors={"name": ["Must be written in ASCII (xn--…): one of its letters is ambiguous."]})
    try:
        folded = name.strip().rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        folded = ""
    labels = folded.split(".")
    if len(labels) < 2 or len(folded) > 253 or not all(_LABEL.fullmatch(one) for one in labels) or labels[-1].isdigit():
        raise ValidationFailed(errors={"name": ["Must be a domain name such as example.com."]})
    return folded

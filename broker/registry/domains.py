"""Domains a tenant claims: a token to publish, and at most one tenant in the platform whose claim is verified.

Who may verify one by hand is the door's question.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

import sqlalchemy as sa

from broker import ids
from broker.context import current_actor
from broker.db import db
from broker.errors import Conflict, ValidationFailed
from broker.models import Domain
from broker.registry.changes import tell

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


def set_verified(domain: Domain, verified: bool) -> None:
    """An administrator from above vouches for the claim, or no longer does. Raises Conflict: another tenant has it."""
    if domain.verified == verified:
        return
    domain.verified = verified
    domain.verified_at = datetime.now(UTC) if verified else None
    domain.verified_by = current_actor().id if verified else None
    try:
        db.session().flush()
    except sa.exc.IntegrityError:
        raise Conflict("Another tenant has verified this domain") from None
    tell("domain.verified" if verified else "domain.unverified", "Domain", domain.id, {"by_hand": True})


def remove(domain: Domain) -> None:
    tell("domain.removed", "Domain", domain.id, {"name": domain.name})
    db.session().delete(domain)
    db.session().flush()


def folded_name(name: str) -> str:
    try:
        folded = name.strip().rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        folded = ""
    labels = folded.split(".")
    if len(labels) < 2 or len(folded) > 253 or not all(_LABEL.fullmatch(one) for one in labels) or labels[-1].isdigit():
        raise ValidationFailed(errors={"name": ["Must be a domain name such as example.com."]})
    return folded

"""What every entity of the registry shares: telling a change, writing only what differs, waiting in line.

Slugs and the rules of names are here too, for partners and tenants draw from one pool.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from broker import events
from broker.db import db
from broker.errors import ValidationFailed

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
RESERVED_SLUGS = frozenset(
    {"platform", "admin", "api", "apps", "auth", "console", "docs", "healthz", "metrics", "mail", "oauth", "readyz"}
    | {"scaikey", "scim", "static", "t", "well-known", "www"}
)
HOME_SUFFIX = "-home"


def tell(name: str, resource_type: str, resource_id: str, changed: Any = (), *, tenant_id: str | None = None) -> None:
    """Record one change; `tenant_id` says whose log it is when the unit of work spans tenants."""
    batch = events.Changes()
    batch.add(name, resource_type, resource_id, changed)
    events.record(batch, tenant_id=tenant_id)


def assign(row: object, values: Mapping[str, Any]) -> list[str]:
    """Set what differs; the names of what did, sorted."""
    differing = sorted(name for name, value in values.items() if getattr(row, name) != value)
    for name in differing:
        setattr(row, name, values[name])
    return differing


def one_at_a_time(what: str, owner: str) -> None:
    """Until the transaction ends nobody else counts or adds `what` of this owner, so limits hold in parallel."""
    db.session().execute(
        sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"scaikey:{what}:{owner}"}
    )


def check_slug(slug: str, *, longest: int = 63) -> None:
    """Raises ValidationFailed for a slug nobody may choose."""
    if not _SLUG.fullmatch(slug) or len(slug) > longest or "--" in slug:
        raise ValidationFailed(
            errors={
                "slug": [f"Must be 1 to {longest} of a-z, 0-9 and single hyphens, beginning and ending with neither."]
            }
        )
    if slug in RESERVED_SLUGS or slug.endswith(HOME_SUFFIX):
        raise ValidationFailed(errors={"slug": ["Is reserved."]})


def check_web_url(name: str, url: str | None, *, loopback: bool = False) -> None:
    """Raises ValidationFailed unless the URL is absolute and `https://`; with `loopback`, `http://` passes too."""
    if url is None:
        return
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    schemes = ("https", "http") if loopback else ("https",)
    plain = url.isascii() and url.isprintable() and not re.search(r"[\s\\\"<>]", url)
    if parts.scheme not in schemes or not parts.hostname or parts.username or parts.password or not plain:
        raise ValidationFailed(errors={name: [f"Must be an absolute {' or '.join(schemes)} URL without credentials."]})

"""Whose record is it? A stranger's identity, compared with the people who are here.

Owns the `match` rules of a provider (which claim is compared with which attribute, and among whom) and the finding of
people by an address that is proven. Says who it could be; what becomes of that is `admission`'s. Only what a trusted
source gave is compared: what another sign-in filled in proves nothing.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from connectors.port import Attributes, Identity

from .. import attributes as catalogue
from ..attributes import fold
from ..db import db
from ..errors import ValidationFailed
from . import documents, layers, rows
from .documents import MAX_INDEXED
from .layers import Provider
from .mapping import Values

EMAIL = "emails"
MOST_RULES = 10
MOST_VALUES = 20
"""Of one claim that are looked for."""

_MOST_CANDIDATES = 20
_EMAIL_NUMBER = 1
# Who writes an address into his account upstream need not have the mailbox.
_CLAIMS_OF_ADDRESSES = frozenset({"email", "emails", "mail"})
_BY_NAME = sa.text("""
    SELECT id FROM resources WHERE tenant_id = :tenant AND name_key = ANY(:keys)
      AND type = 'User' AND removed_at IS NULL
""")
_BY_EXTERNAL_ID = sa.text("""
    SELECT id FROM resources WHERE tenant_id = :tenant AND external_id = ANY(:keys)
      AND type = 'User' AND removed_at IS NULL LIMIT :most
""")
_BY_VALUE = sa.text("""
    SELECT DISTINCT resource_id FROM resource_values WHERE tenant_id = :tenant AND attribute = :number
      AND value_key = ANY(:keys) AND (CAST(:kind AS text) IS NULL OR kind = :kind) LIMIT :most
""")
_BY_KEY = sa.text("""
    SELECT resource_id FROM links WHERE tenant_id = :tenant AND provider_id = ANY(:within) AND key = ANY(:keys)
      AND kind = 'user' AND gone_at IS NULL AND skipped IS NULL AND resource_id IS NOT NULL
""")
_PEOPLE = sa.text("""
    SELECT id FROM resources WHERE tenant_id = :tenant AND id = ANY(:ids) AND type = 'User' AND removed_at IS NULL
      AND user_type IS DISTINCT FROM 'ServiceAccount'
""")
# Whom a SCIM token gave is told by the event of his creation.
_GIVEN = sa.text("""
    SELECT r.id FROM unnest(CAST(:ids AS text[])) AS r(id)
    WHERE EXISTS (SELECT 1 FROM links l WHERE l.tenant_id = :tenant AND l.resource_id = r.id
                  AND l.provider_id = ANY(:within) AND l.gone_at IS NULL AND l.skipped IS NULL)
       OR EXISTS (SELECT 1 FROM events e WHERE e.tenant_id = :tenant AND e.resource_id = r.id
                  AND e.name = 'user.created' AND e.actor_kind = 'scim_token' AND e.actor_id = ANY(:within))
""")
_VERIFIED_DOMAIN = sa.text("SELECT 1 FROM domains WHERE tenant_id = :tenant AND name = :name AND verified")
_ANYBODYS_DOMAIN = sa.text("SELECT 1 FROM scaikey_find_domain(:name)")

Believed = Callable[[Provider, Attributes], Attributes]


class Field(NamedTuple):
    """How people are found by one attribute: by which index, and in what form its keys are."""

    by: Literal["name", "external_id", "value", "guid"]
    exact: bool = False
    number: int = 0
    kind: str | None = None


@lru_cache(maxsize=256)
def field(attribute: str) -> Field | None:
    """The attribute that a rule names by its SCIM path, its name in Active Directory or ours; None when people cannot
    be found by it."""
    if attribute in (EMAIL, "emails.value"):
        return Field("value", number=_EMAIL_NUMBER)
    for line in catalogue.on("User"):
        path = line.path_on("User")
        if attribute not in (path, line.name) and attribute.lower() != (line.ad or "").lower():
            continue
        if line.column == "name":
            return Field("name")
        if line.ad == "objectGUID":
            return Field("external_id" if attribute == path and line.column else "guid", exact=True)
        if line.number is not None and path is not None:
            kind = documents.parse(path).kind
            return Field("value", line.case_exact, line.number, kind.lower() if kind else None)
    return None


def check_rules(rules: Any) -> list[dict[str, str]]:
    """Validate a provider's `match`. Raises ValidationFailed naming each rule that cannot work."""
    if not isinstance(rules, list) or len(rules) > MOST_RULES:
        raise ValidationFailed(errors={"match": [f"A list of at most {MOST_RULES} rules."]})
    errors = {}
    for index, rule in enumerate(rules):
        if not isinstance(rule, dict) or set(rule) != {"claim", "attribute"}:
            errors[f"match.{index}"] = ["A rule is an object of claim and attribute."]
        elif not isinstance(rule["claim"], str) or not 0 < len(rule["claim"]) <= 200:
            errors[f"match.{index}"] = ["`claim` names a claim of the upstream."]
        elif not isinstance(rule["attribute"], str) or field(rule["attribute"]) is None:
            errors[f"match.{index}"] = ["`attribute` is one that people are found by: userName, externalId, emails, …"]
    if errors:
        raise ValidationFailed(errors=errors)
    return list(rules)


def by_rules(tenant: str, identity: Identity, rules: Iterable[Mapping[str, str]], within: Sequence[str]) -> list[str]:
    """Whom the first rule that finds anybody finds, among those that `within` (providers, SCIM tokens) gave."""
    if not within:
        return []
    for rule in rules:
        found = field(rule["attribute"])
        values = _values(identity, rule["claim"])
        if found is None or not values:
            continue
        people = _found(tenant, found, _keys(found, values), within)
        if people:
            return people
    return []


def by_email(tenant: str, emails: Set[str]) -> list[str]:
    """Who has one of these proven addresses, of a domain that the tenant has verified.

    Found by the folded form, which makes different letters meet, but compared letter by letter: the mailbox of another
    letter is somebody else's.
    """
    proven = {_lowered(email) for email in emails if "\x00" not in email and _ours(tenant, email)}
    if not proven:
        return []
    keys = [fold(email) for email in proven]
    ids = _people(tenant, _by_value(tenant, Field("value", number=_EMAIL_NUMBER), keys))
    return [
        id
        for id, values in _trusted(tenant, ids, _unless_doubtful).items()
        if any(_lowered(email) in proven for email in _emails(id, values))
    ]


def unproven(name: str, vouched: Set[str]) -> bool:
    """Whether a name reads as an address of a domain that some tenant has verified, and nobody vouches for it."""
    if _lowered(name) in {_lowered(email) for email in vouched}:
        return False
    local, _, domain = fold(name).strip().rpartition("@")
    try:
        known = domain.strip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        return False
    return bool(local and known) and db.session().execute(_ANYBODYS_DOMAIN, {"name": known}).first() is not None


def _values(identity: Identity, claim: str) -> list[str]:
    """The claim's values that can be looked for; of a claim of addresses, those that the upstream vouches for."""
    values = [value for value in identity.attributes.get(claim, ()) if isinstance(value, str) and "\x00" not in value]
    if claim.rpartition(".")[2].lower() in _CLAIMS_OF_ADDRESSES:
        values = [value for value in values if value in identity.verified_emails]
    return [value for value in values if value.strip() and len(value.encode()) <= MAX_INDEXED][:MOST_VALUES]


def _keys(found: Field, values: Sequence[str]) -> list[str]:
    if found.by in ("guid", "external_id"):
        return list({*values, *(text for value in values for text in guid_texts(value))})
    return list({value if found.exact else fold(value) for value in values})


def guid_texts(value: str) -> list[str]:
    """An objectGUID as our links know it, from the forms in which upstreams write it: with braces or without hyphens,
    in capitals, or as the base64 of its octets (an immutable id)."""
    texts = []
    with contextlib.suppress(ValueError):
        texts.append(str(uuid.UUID(value.strip("{}"))))
    if len(value) == 24:
        with contextlib.suppress(ValueError, binascii.Error):
            texts.append(str(uuid.UUID(bytes_le=base64.b64decode(value, validate=True))))
    return texts


def _found(tenant: str, wanted: Field, keys: Sequence[str], within: Sequence[str]) -> list[str]:
    """People given by `within` of whom one of its sources, or an administrator, says one of these keys."""
    session = db.session()
    where = {"tenant": tenant, "keys": list(keys), "most": _MOST_CANDIDATES, "within": list(within)}
    if wanted.by == "guid":
        return _people(tenant, session.execute(_BY_KEY, where).scalars())
    if wanted.by == "value":
        ids: Iterable[str] = _by_value(tenant, wanted, keys)
    else:
        ids = session.execute(_BY_NAME if wanted.by == "name" else _BY_EXTERNAL_ID, where).scalars()
    people = _people(tenant, ids)
    given = list(session.execute(_GIVEN, {**where, "ids": people}).scalars()) if people else []

    def believed(provider: Provider, attributes: Attributes) -> Attributes:
        return attributes if not provider.sign_in or provider.id in within else {}

    return [id for id, values in _trusted(tenant, given, believed).items() if _says(wanted, values, id, set(keys))]


def _by_value(tenant: str, wanted: Field, keys: Sequence[str]) -> list[str]:
    values = {"number": wanted.number, "kind": wanted.kind, "keys": list(keys), "most": _MOST_CANDIDATES}
    return list(db.session().execute(_BY_VALUE, {"tenant": tenant, **values}).scalars())


def _people(tenant: str, ids: Iterable[str]) -> list[str]:
    wanted = sorted(set(ids))
    return list(db.session().execute(_PEOPLE, {"tenant": tenant, "ids": wanted}).scalars()) if wanted else []


def _trusted(tenant: str, ids: Sequence[str], believed: Believed) -> dict[str, Values]:
    """The effective values of people, of each link's record only what is believed."""
    found = rows.load(tenant, ids, lock=False)
    said = layers.said_of(tenant, dict.fromkeys(found, "User"), believed=believed)
    return {id: layers.effective(row, said[id]) for id, row in found.items()}


def _says(wanted: Field, values: Values, id: str, keys: Set[str]) -> bool:
    if wanted.by == "name":
        return fold(str(values.get("userName", ""))) in keys
    if wanted.by == "external_id":
        return values.get("externalId") in keys
    index = documents.index_rows("User", documents.nested("User", id, values))
    return any(number == wanted.number and key in keys and wanted.kind in (None, kind) for number, key, kind in index)


def _unless_doubtful(provider: Provider, attributes: Attributes) -> Attributes:
    """What a sign-in said, without an address that it did not vouch for."""
    if not provider.sign_in or list(attributes.get("email_verified", ())) == ["true"]:
        return attributes
    return {name: values for name, values in attributes.items() if name != "email"}


def _emails(id: str, values: Values) -> list[str]:
    items = documents.nested("User", id, values).get("emails", ())
    return [item["value"] for item in items if isinstance(item.get("value"), str)]


def _lowered(email: str) -> str:
    """An address as it is compared: ASCII letters in any case, all others as they are."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in email)


def _ours(tenant: str, email: str) -> bool:
    local, _, domain = email.rpartition("@")
    # Letters that IDNA writes as others ("ß" as "ss") would make somebody else's domain ours.
    if not domain.isascii() and fold(domain) != domain.lower():
        return False
    try:
        name = domain.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return False
    if not local or not name:
        return False
    return db.session().execute(_VERIFIED_DOMAIN, {"tenant": tenant, "name": name}).first() is not None

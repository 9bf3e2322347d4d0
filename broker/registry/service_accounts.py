"""Service accounts as clients: what they may ask tokens for, and with which scopes.

The account itself is a user of `userType` ServiceAccount, which the directory writes; its secrets are `credentials`'.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from broker.db import db
from broker.errors import Conflict, ValidationFailed
from broker.models import Application, ServiceAccount
from broker.protocol import OUR_SCOPES, STANDARD_SCOPES
from broker.registry import client_rules
from broker.registry.applications import check_audiences
from broker.registry.changes import assign, tell

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def user_name(name: str) -> str:
    """The userName of the account of this name: no person of the tenant is called so by accident."""
    return f"sa:{name}"


def check_new(values: Mapping[str, Any]) -> None:
    """Raises ValidationFailed, and Conflict for a name that is taken."""
    if not _NAME.fullmatch(values["name"]):
        raise ValidationFailed(errors={"name": ["Must be 1 to 100 letters, digits and . _ - of ASCII."]})
    _check(values["scopes"], values["audiences"])
    if db.session().scalar(sa.select(ServiceAccount.id).where(ServiceAccount.name == values["name"])):
        raise Conflict("The tenant has a service account of this name already")


def create(user_id: str, values: Mapping[str, Any]) -> ServiceAccount:
    """The client of a user just made for it, in the open unit of work."""
    account = ServiceAccount(
        id=user_id,
        name=values["name"],
        client_id=secrets.token_urlsafe(18),
        scopes=list(dict.fromkeys(values["scopes"])),
        audiences=list(dict.fromkeys(values["audiences"])),
    )
    session = db.session()
    session.add(account)
    session.flush()
    session.refresh(account)
    told = {"name": account.name, "scopes": account.scopes, "audiences": account.audiences}
    tell("service_account.created", "ServiceAccount", account.id, told)
    return account


def update(account: ServiceAccount, values: Mapping[str, Any]) -> list[str]:
    """Change scopes and audiences; the names of what differs. Raises ValidationFailed."""
    wanted = {name: list(dict.fromkeys(given)) for name, given in values.items()}
    _check(
        wanted.get("scopes", account.scopes),
        wanted.get("audiences", account.audiences),
        known=account,
    )
    changed = assign(account, wanted)
    if changed:
        db.session().flush()
        tell("service_account.updated", "ServiceAccount", account.id, {name: wanted[name] for name in changed})
    return changed


def removed(account: ServiceAccount) -> None:
    """Tell that the account goes; the directory removes the user, and with it everything of the account."""
    tell("service_account.removed", "ServiceAccount", account.id, {"name": account.name})


def _check(scopes: list[str], audiences: list[str], *, known: ServiceAccount | None = None) -> None:
    errors = {}
    if not audiences:
        errors["audiences"] = ["Name at least one; a token that names none is for the first."]
    elif complaint := client_rules.audiences_complaint(audiences, first_party=True):
        errors["audiences"] = [complaint]
    if complaint := client_rules.scopes_complaint(scopes, audiences):
        errors["scopes"] = [complaint]
    elif personal := sorted(set(scopes) & set(STANDARD_SCOPES)):
        errors["scopes"] = [f"{personal[0]} is about a person."]
    if errors:
        raise ValidationFailed(errors=errors)
    had_audiences, had_scopes = (known.audiences, known.scopes) if known else ((), ())
    check_audiences("audiences", [audience for audience in audiences if audience not in had_audiences])
    _check_apis_know([scope for scope in scopes if scope not in OUR_SCOPES and scope not in had_scopes], audiences)


def _check_apis_know(scopes: list[str], audiences: list[str]) -> None:
    """Raises ValidationFailed for a scope that the application of none of these APIs has: it would be in no token."""
    if scopes:
        kept = db.session().scalars(sa.select(Application.scopes).where(Application.audience.in_(audiences)))
        if unknown := sorted(set(scopes).difference(*kept)):
            raise ValidationFailed(
                errors={"scopes": [f"No application of these audiences has the scope {unknown[0]}."]}
            )

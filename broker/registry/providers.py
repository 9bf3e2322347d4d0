"""Identity providers of a tenant: their checked configuration, their sealed secrets, their rank, and whom they let in.

What a kind needs to be told is its connector's `Config`; secrets among it are sealed apart and read back as `***`.
Which attributes people are matched by is the directory's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa

from broker import ids, running, schedule
from broker.db import db
from broker.errors import Conflict, NotAvailable, ValidationFailed
from broker.models import IdentityProvider, Resource, RoleAssignment, ScimToken
from broker.registry.changes import assign, tell
from broker.registry.domains import folded_name
from broker.settings import SETTINGS
from connectors import kinds
from connectors.port import Misconfigured

HIDDEN = "***"
MOST_DOMAINS, MOST_GROUPS, MOST_WITHIN = 100, 20, 50

_NO_SIGN_IN: Mapping[str, Any] = {
    "sign_in": False,
    "domains": [],
    "jit": {"enabled": False, "groups": []},
    "linking": "never",
    "match": [],
    "match_within": [],
}
"""What says how people sign in, and what it is where they do not."""
_OF_DIRECTORIES = frozenset({"sign_in", "domains", "jit"})
"""What of it there is at a directory that checks passwords: who somebody is says what was read there."""


def create(values: Mapping[str, Any]) -> IdentityProvider:
    """A provider of the open tenant. Raises NotAvailable, ValidationFailed, Conflict."""
    session = db.session()
    if values["kind"] not in kinds.KINDS:
        raise NotAvailable(errors={"kind": [f"Available: {', '.join(kinds.KINDS)}."]})
    _refuse_taken(values["name"], None)
    rest = {name: value for name, value in values.items() if name != "config"}
    config = _config(values["kind"], values.get("config", {}), {})
    provider = IdentityProvider(id=ids.new("idp"), **_checked(rest, {**_NO_SIGN_IN, **rest}, config))
    _configure(provider, config)
    if schedule.parse(values.get("sync", {})).enabled:
        provider.due_at = sa.func.now()
    session.add(provider)
    session.flush()
    session.refresh(provider)
    tell("identity_provider.created", "IdentityProvider", provider.id, sorted(values))
    return provider


def update(provider: IdentityProvider, values: Mapping[str, Any]) -> list[str]:
    """Change it; a `config` replaces the old one, but for secrets given back as `***`."""
    rest = {name: value for name, value in values.items() if name != "config"}
    known = {name: getattr(provider, name) for name in _NO_SIGN_IN}
    before = full_config(provider)
    config = _config(provider.kind, values["config"], before) if "config" in values else before
    rest = _checked(rest, {"kind": provider.kind, "sync": provider.sync, **known, **rest}, config)
    if "name" in rest:
        _refuse_taken(rest["name"], provider.id)
    changed = assign(provider, rest)
    if config != before:
        _configure(provider, config)
        changed = sorted([*changed, "config"])
    if {"config", "sync", "enabled"} & set(changed):
        provider.due_at = sa.func.now() if schedule.parse(provider.sync).enabled else None
    if {"sync", "attribute_mapping"} & set(changed):
        provider.full_due_at = None  # what is kept is brought up to it by reading everything
    if changed:
        provider.version += 1
        db.session().flush()
        tell("identity_provider.updated", "IdentityProvider", provider.id, changed)
    return changed


def remove(provider: IdentityProvider) -> None:
    """Raises Conflict while it has given us people, groups or units, whose values would have no owner left, and while a
    SCIM token provisions in its name. Revoked tokens are kept without it: they are history."""
    session = db.session()
    linked = session.execute(
        sa.text("SELECT 1 FROM links WHERE tenant_id = :tenant AND provider_id = :provider LIMIT 1"),
        {"tenant": provider.tenant_id, "provider": provider.id},
    )
    if linked.first() is not None:
        raise Conflict("The provider still has linked records: disable it instead")
    named = ScimToken.identity_provider_id == provider.id
    if session.scalar(sa.select(ScimToken.id).where(named, ScimToken.revoked_at.is_(None)).limit(1)) is not None:
        raise Conflict("A SCIM token still provisions for the provider: revoke it first")
    session.execute(sa.update(ScimToken).where(named).values(identity_provider_id=None))
    tell("identity_provider.removed", "IdentityProvider", provider.id, {"name": provider.name})
    session.delete(provider)
    session.flush()


def full_config(provider: IdentityProvider) -> dict[str, Any]:
    """The configuration with its secrets opened, as the connector takes it."""
    opened = {}
    if provider.secrets is not None:
        opened = orjson.loads(running.vault().open(provider.secrets, **_place(provider)))
    return {**provider.config, **opened}


def shown_config(provider: IdentityProvider) -> dict[str, Any]:
    """The configuration as administrators see it."""
    secret = {setting.name for setting in kinds.describe(provider.kind) if setting.secret}
    kept = secret if provider.secrets is not None else set()
    return {**provider.config, **dict.fromkeys(sorted(kept & set(full_config(provider))), HIDDEN)}


def _config(kind: str, given: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with its secrets, as the connector takes it; `***` stands for one of `before`."""
    settings = kinds.describe(kind)
    secret = {setting.name for setting in settings if setting.secret}
    config = {
        name: before[name] if name in secret and value == HIDDEN and name in before else value
        for name, value in given.items()
    }
    if any(config.get(setting.name) != before.get(setting.name) for setting in settings if setting.confides):
        # A secret nobody can read here could else be sent to whoever a new address belongs to.
        kept = [name for name in secret if given.get(name) == HIDDEN and name in before]
        if kept:
            raise ValidationFailed(errors={f"config.{name}": ["Was given for another place."] for name in kept})
    if hidden := sorted(name for name in secret if config.get(name) == HIDDEN):
        raise ValidationFailed(errors={f"config.{name}": [f"Is not known: {HIDDEN} keeps one."] for name in hidden})
    _made(kind, config)
    return config


def _made(kind: str, config: Mapping[str, Any]) -> Any:
    try:
        return kinds.config_from(kind, config)
    except Misconfigured as error:
        named = {f"config.{name}": [text] for name, text in error.fields.items()}
        raise ValidationFailed(errors=named or {"config": [str(error)]}) from None


def _configure(provider: IdentityProvider, config: Mapping[str, Any]) -> None:
    secret = {setting.name for setting in kinds.describe(provider.kind) if setting.secret}
    secrets = {name: value for name, value in config.items() if name in secret}
    provider.config = {name: value for name, value in config.items() if name not in secret}
    provider.tenant_id = provider.tenant_id or db.session().info["scope"].tenant_id
    provider.secrets = running.vault().seal(orjson.dumps(secrets), **_place(provider)) if secrets else None


def _place(provider: IdentityProvider) -> dict[str, str]:
    return {
        "table": "identity_providers",
        "column": "secrets",
        "tenant": provider.tenant_id,
        "row": provider.id,
    }


def _refuse_taken(name: str, own_id: str | None) -> None:
    taken = sa.select(IdentityProvider.id).where(IdentityProvider.name == name)
    if db.session().scalar(taken if own_id is None else taken.where(IdentityProvider.id != own_id)):
        raise Conflict("The tenant has a provider of this name already")


def _checked(values: dict[str, Any], whole: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The values in the form they are kept in; `whole` is what the provider will be with them, and `config`."""
    guard = values.get("removal_guard")
    if guard:
        try:
            SETTINGS["removal_guard"].check(guard)
        except ValueError as error:
            raise ValidationFailed(errors={"removal_guard": [str(error)]}) from None
    _check_schedule(values.get("sync", whole.get("sync")), whole["kind"], config)
    if "sync" in values:
        values["sync"] = {**schedule.DEFAULT, **values["sync"]}
    if "jit" in values:
        values["jit"] = {**_NO_SIGN_IN["jit"], **values["jit"]}
    if not kinds.signs_in(whole["kind"]):
        _check_directory({**whole, **values}, config)
    errors: dict[str, list[str]] = {}
    if "domains" in values:
        values["domains"] = _domains(values["domains"], errors)
    if "jit" in values:
        _check_groups(values["jit"]["groups"], errors)
    if "match_within" in values:
        _check_within(values["match_within"], errors)
    if whole["match"] and not whole["match_within"]:
        errors["match_within"] = ["Has to say among whom people are matched."]
    if errors:
        raise ValidationFailed(errors=errors)
    return values


def _check_directory(whole: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """How people sign in where they do not leave for: with their passwords, if this one checks them."""
    asked = {name for name, nothing in _NO_SIGN_IN.items() if whole[name] != nothing}
    if asked and not kinds.checks_passwords(whole["kind"], _made(whole["kind"], config)):
        raise NotAvailable(errors={name: ["People do not sign in at such a provider."] for name in sorted(asked)})
    if beyond := asked - _OF_DIRECTORIES:
        raise NotAvailable(errors={name: ["A directory's people are those who are read from it."] for name in beyond})
    if whole["jit"].get("groups"):
        raise NotAvailable(errors={"jit.groups": ["A directory's groups are those that are read from it."]})


def _check_schedule(wanted: Mapping[str, Any] | None, kind: str, config: Mapping[str, Any]) -> None:
    if wanted is None:
        return
    try:
        enabled = schedule.parse(wanted).enabled
    except ValueError as error:
        raise ValidationFailed(errors={"sync": [str(error)]}) from None
    if enabled and not kinds.is_live(kind, _made(kind, config)):
        raise NotAvailable(errors={"sync.enabled": ["Such a provider is not read by itself: somebody brings a file."]})


def _domains(names: Sequence[str], errors: dict[str, list[str]]) -> list[str]:
    """As `domains` are kept. They need not be verified yet, and count once they are."""
    if len(names) > MOST_DOMAINS:
        errors["domains"] = [f"At most {MOST_DOMAINS}."]
        return []
    kept = []
    for name in names:
        try:
            kept.append(folded_name(name))
        except ValidationFailed:
            errors["domains"] = ["Must be domain names such as example.com."]
    return list(dict.fromkeys(kept))


def _check_groups(given: Sequence[str], errors: dict[str, list[str]]) -> None:
    """Newcomers enter groups of the tenant, and none that would make administrators of them."""
    if len(given) > MOST_GROUPS:
        errors["jit.groups"] = [f"At most {MOST_GROUPS}."]
        return
    session = db.session()
    group = (Resource.type == "Group") & Resource.removed_at.is_(None) & Resource.id.in_(given)
    if set(given) - set(session.scalars(sa.select(Resource.id).where(group))):
        errors["jit.groups"] = ["There is no such group in this tenant."]
    elif session.scalar(sa.select(RoleAssignment.id).where(RoleAssignment.principal_id.in_(given)).limit(1)):
        errors["jit.groups"] = ["A group that holds an admin role takes no newcomers."]


def _check_within(given: Sequence[str], errors: dict[str, list[str]]) -> None:
    """Who gave us the people that may be matched: providers of this tenant, and SCIM tokens."""
    if len(given) > MOST_WITHIN:
        errors["match_within"] = [f"At most {MOST_WITHIN}."]
        return
    session = db.session()
    known: set[str] = set()
    for model in (IdentityProvider, ScimToken):
        known.update(session.scalars(sa.select(model.id).where(model.id.in_(given))))
    if set(given) - known:
        errors["match_within"] = ["There is no such provider or SCIM token in this tenant."]

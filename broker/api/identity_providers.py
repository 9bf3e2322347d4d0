"""`/identity-providers`: the upstreams of a tenant, their configuration, and a readable verdict on it.

What a kind has to be told is its connector's; runs are `sync_runs`'.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from flask import Response
from marshmallow import RAISE, Schema

from broker import access, connections
from broker.api.door import api, body, check_if_match, created, json, listed, nothing, show
from broker.api.shapes import NAME, Flag, Instant, Object, Shape, auto_field, fields, one_of, take, take_changes
from broker.api.sync_runs import SyncRunShape, started, wake
from broker.db import after_commit, current_tenant, unit
from broker.directory import declared, mapping, matching, rules
from broker.doors import About, scope
from broker.errors import Conflict, NotAvailable
from broker.models import IdentityProvider
from broker.policy import Action
from broker.registry import providers as registry
from broker.sign_in import upstream
from broker.sync import queue
from connectors import kinds
from connectors.port import Misconfigured, Step


class TransformShape(Schema):
    class Meta:
        unknown = RAISE

    name = fields.String(required=True)
    args = Object()


class MappingRow(Schema):
    """One line of an attribute mapping; the catalogue and the closed list of transforms say what is known."""

    class Meta:
        unknown = RAISE

    source = fields.String(data_key="from", attribute="from", allow_none=True)
    to = fields.String(required=True)
    transform = fields.Nested(TransformShape)
    authority = fields.String()
    default = fields.Raw(allow_none=True)


class NewcomersShape(Schema):
    """Whether somebody nobody knows becomes a person here, and the groups such people enter."""

    class Meta:
        unknown = RAISE

    enabled = Flag()
    groups = fields.List(fields.String())


class MatchRow(Schema):
    """One comparison: this claim of the upstream with this attribute of the people here."""

    class Meta:
        unknown = RAISE

    claim = fields.String(required=True)
    attribute = fields.String(required=True)


class ProviderShape(Shape):
    FIXED = frozenset({"kind"})

    class Meta(Shape.Meta):
        model = IdentityProvider

    id = auto_field(dump_only=True)
    kind = auto_field()
    name = auto_field(validate=NAME)
    enabled = auto_field()
    priority = auto_field()
    config = Object()
    attribute_mapping = fields.List(fields.Nested(MappingRow))
    sign_in = auto_field()
    domains = fields.List(fields.String())
    jit = fields.Nested(NewcomersShape)
    linking = auto_field(validate=one_of("never", "verified_email"))
    match = fields.List(fields.Nested(MatchRow))
    match_within = fields.List(fields.String())
    sync = Object()
    removal_guard = Object()
    created_at = auto_field(dump_only=True)
    updated_at = auto_field(dump_only=True)

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        if attr == "config":
            return registry.shown_config(obj)
        return super().get_attribute(obj, attr, default)


@api.route(
    "/identity-providers",
    action=Action.PROVIDER_READ,
    about=About(gives=ProviderShape, listed=True, query={"name": "Only the provider of this name."}),
)
def list_providers() -> Response:
    """The tenant's upstreams."""
    return listed(
        sa.select(IdentityProvider),
        ProviderShape,
        [IdentityProvider.id],
        filters={"name": lambda name: IdentityProvider.name == name},
    )


@api.route(
    "/identity-providers",
    methods=["POST"],
    action=Action.PROVIDER_WRITE,
    about=About(takes=ProviderShape, gives=ProviderShape, status=201),
)
def create_provider() -> Response:
    """Add an upstream. Its `config` is described in the documentation of the connector of its `kind`."""
    provider = registry.create(_mapped(take(ProviderShape, body())))
    return created(ProviderShape, provider, f"/identity-providers/{provider.id}")


@api.route("/identity-providers/<provider_id>", action=Action.PROVIDER_READ, about=About(gives=ProviderShape))
def read_provider(provider_id: str) -> Response:
    """One upstream; its secrets are shown as `***`."""
    return show(ProviderShape, access.fetch(IdentityProvider, provider_id, to=Action.PROVIDER_READ))


@api.route(
    "/identity-providers/<provider_id>",
    methods=["PATCH"],
    action=Action.PROVIDER_WRITE,
    about=About(takes=ProviderShape, gives=ProviderShape),
)
def change_provider(provider_id: str) -> Response:
    """Change an upstream. `config` is replaced as a whole; a secret sent as `***` stays what it is."""
    provider = access.fetch(IdentityProvider, provider_id, to=Action.PROVIDER_WRITE, lock=True)
    check_if_match(ProviderShape, provider)
    registry.update(provider, _mapped(take_changes(ProviderShape, provider, body())))
    return show(ProviderShape, provider)


@api.route(
    "/identity-providers/<provider_id>", methods=["DELETE"], action=Action.PROVIDER_WRITE, about=About(status=204)
)
def remove_provider(provider_id: str) -> Response:
    """Delete an upstream from which nothing came. One that gave us people is disabled instead."""
    provider = access.fetch(IdentityProvider, provider_id, to=Action.PROVIDER_WRITE, lock=True)
    check_if_match(ProviderShape, provider)
    registry.remove(provider)
    return nothing()


_VERDICT = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean"},
        "steps": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "ok": {"type": "boolean"},
                    "found": {"type": "string"},
                    "mend": {"type": "string"},
                },
            },
        },
    },
}


@api.route(
    "/identity-providers/<provider_id>/test",
    methods=["POST"],
    action=Action.PROVIDER_WRITE,
    transaction=False,
    about=About(gives=_VERDICT),
)
def test_provider(provider_id: str) -> Response:
    """Check an upstream's settings, and ask it: one verdict per step, each with what to do about it."""
    with unit(scope()):
        provider = connections.provider_of(access.fetch(IdentityProvider, provider_id, to=Action.PROVIDER_WRITE))
    steps = list(_steps(provider))
    shown = [{"name": step.name, "ok": step.ok, "found": step.found, "mend": step.mend} for step in steps]
    return json({"ok": all(step.ok for step in steps), "steps": shown})


def _steps(provider: connections.Provider) -> Iterator[Step]:
    try:
        config = kinds.config_from(provider.kind, provider.config)
    except Misconfigured as error:
        yield Step("settings", False, str(error), "Correct the settings of the provider.")
        return
    read = " An exported file is read by `scaikey scim import`." if kinds.reads_file(provider.kind) else ""
    yield Step("settings", True, f"The settings are complete.{read}")
    callback = upstream.callback_url(scope(), provider.id)
    with connections.diagnosis_of(provider, config, callback) as diagnosis:
        if diagnosis is not None:
            yield from diagnosis.steps()


class WantedRun(Schema):
    """What is wanted of a run: everything instead of what changed, or the plan alone."""

    class Meta:
        unknown = RAISE

    full = Flag()
    dry_run = Flag()


class SyncStateShape(Shape):
    """When an upstream is read next, and how it went lately."""

    class Meta(Shape.Meta):
        model = IdentityProvider

    provider_id = fields.String(attribute="id", dump_only=True)
    next_at = Instant(attribute="due_at", dump_only=True)
    next_full_at = Instant(attribute="full_due_at", dump_only=True)
    last_good_at = Instant(attribute="succeeded_at", dump_only=True)
    failures = auto_field(dump_only=True)


@api.route("/identity-providers/<provider_id>/sync", action=Action.SYNC_READ, about=About(gives=SyncStateShape))
def read_sync(provider_id: str) -> Response:
    """When an upstream is read next, when it was last read to the end, and failures in a row since then."""
    return show(SyncStateShape, access.fetch(IdentityProvider, provider_id, to=Action.SYNC_READ))


@api.route(
    "/identity-providers/<provider_id>/sync",
    methods=["POST"],
    action=Action.SYNC_WRITE,
    about=About(takes=WantedRun, gives=SyncRunShape, status=202),
)
def start_sync(provider_id: str) -> Response:
    """Start a run now. The answer is the run; it waits for a worker. `dry_run` gives the plan and changes nothing."""
    provider = access.fetch(IdentityProvider, provider_id, to=Action.SYNC_WRITE, lock=True)
    wanted = take(WantedRun, body())
    if not provider.enabled:
        raise Conflict("The provider is disabled")
    config = kinds.config_from(provider.kind, registry.full_config(provider))
    if not kinds.is_live(provider.kind, config):
        raise NotAvailable("This provider cannot be asked for everybody; an export is read by `scaikey scim import`")
    run = queue.ask(provider, full=wanted.get("full", False), dry_run=wanted.get("dry_run", False))
    after_commit(wake)
    return started(run)


def _mapped(values: dict[str, Any]) -> dict[str, Any]:
    if "attribute_mapping" in values:
        rows = values["attribute_mapping"]
        known = declared.declared(current_tenant()) if mapping.names_declared(rows) else None
        values["attribute_mapping"] = rules.check_rows(rows, known)
    if "match" in values:
        values["match"] = matching.check_rules(values["match"])
    return values

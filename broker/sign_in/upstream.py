"""The way to an upstream and back: what is sealed before the departure, and what is believed on return.

A departure is open once per flow: its `state` is a digest there, its memo sealed to the row. An answer claims it before
anything is asked of the upstream, so a replay finds nothing. No transaction is open while the upstream is waited for;
afterwards the provider is read again, and the person admitted in one transaction with the session. A refusal is a
result that is remembered, not an exception.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from broker import connections, running
from broker.connections import Provider
from broker.context import Scope
from broker.db import current_tenant, db, unit
from broker.directory import Directory
from broker.models import IdentityProvider, OneTime, SignInFlow, SyncRun
from broker.models import Session as SessionRow
from broker.sign_in import browser, flow, sessions
from broker.sign_in.flow import Depart, Flow, FlowLost
from broker.sign_in.sessions import LiveSession
from connectors.port import Departure, Identity, Misconfigured, Record, Refused, Reply, ReturnTo, SignOut, Unreachable

log = logging.getLogger("scaikey.sign_in")

_PURPOSE = "upstream"
_MOST_PARAMETERS = 50


@dataclass(frozen=True, slots=True)
class Failed:
    """It led nowhere; the reason is remembered and has words in `broker.pages.refusals`."""

    reason: str
    provider: str | None
    """What the upstream is called."""


def callback_url(scope: Scope, provider_id: str) -> str:
    """The one redirect URI of a provider."""
    return f"{running.config().base_url}/t/{scope.slug}/callback/{provider_id}"


def signed_out_url(scope: Scope) -> str:
    """Where an upstream sends people back to after signing out there."""
    return f"{running.config().base_url}/t/{scope.slug}/signed-out"


def depart(under_way: Flow, step: Depart) -> Departure | Failed:
    """Where the browser goes to sign in at the upstream. Opens units of work of its own, and none while it asks."""
    with unit(under_way.scope):
        provider = _provider(step.provider_id)
    if provider is None:
        return failed(under_way, "provider_disabled", step.provider_id, None)
    state = browser.new_secret()
    fresh = "login" in under_way.prompt or under_way.max_age == 0
    which = step.another or "select_account" in under_way.prompt
    try:
        with connections.connector_of(provider) as connector:
            if connector is None:
                raise Misconfigured(f"Nobody signs in at providers of kind {provider.kind}")
            departure = connector.begin_sign_in(
                ReturnTo(
                    callback=callback_url(under_way.scope, provider.id),
                    state=state,
                    login_hint=under_way.name,
                    prompt="select_account" if which else None,
                    max_age=under_way.max_age,
                    fresh=fresh,
                )
            )
    except (Refused, Unreachable, Misconfigured) as error:
        return failed(under_way, _reason(error), provider.id, provider.name, str(error))
    with unit(under_way.scope) as session:
        left = session.scalar(
            sa.update(SignInFlow)
            .where(SignInFlow.id == under_way.id, SignInFlow.finished_at.is_(None))
            .values(
                provider_id=provider.id,
                state=browser.digest(state),
                memo=running.vault().seal(departure.memo, **_place(under_way, "memo")),
                reply=None,
                error=None,
            )
            .returning(SignInFlow.id)
            .execution_options(synchronize_session=False)
        )
    return departure if left else Failed("flow_expired", provider.name)


def flow_of_state(scope: Scope, provider_id: str, state: str) -> str | None:
    """The id of the flow that departed to this provider with that `state`. In the open unit of work."""
    return db.session().scalar(
        sa.select(SignInFlow.id).where(
            SignInFlow.state == browser.digest(state),
            SignInFlow.provider_id == provider_id,
            SignInFlow.finished_at.is_(None),
            SignInFlow.expires_at > sa.func.now(),
        )
    )


def put_by(flow_id: str, reply: Reply) -> None:
    """Keep a cross-site POST, which brings no cookie, until the browser comes back with it. The first one counts."""
    kept = orjson.dumps({"method": reply.method, "body": reply.body.decode("latin-1")})
    place = {"table": "sign_in_flows", "column": "reply", "tenant": current_tenant(), "row": flow_id}
    db.session().execute(
        sa.update(SignInFlow)
        .where(SignInFlow.id == flow_id, SignInFlow.reply.is_(None))
        .values(reply=running.vault().seal(kept, **place))
        .execution_options(synchronize_session=False)
    )


def put_by_earlier(under_way: Flow) -> Reply | None:
    """The POST that was kept for this flow."""
    sealed = db.session().scalar(sa.select(SignInFlow.reply).where(SignInFlow.id == under_way.id))
    if sealed is None:
        return None
    kept = orjson.loads(running.vault().open(sealed, **_place(under_way, "reply")))
    return reply_of(kept["method"], kept["body"].encode("latin-1"))


def reply_of(method: str, body: bytes) -> Reply:
    """Query or form as it was sent, every value of each parameter. Raises FlowLost for more than any upstream sends."""
    parameters: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        raise FlowLost("flow_expired") from None
    for name, value in pairs:
        parameters.setdefault(name, []).append(value)
    return Reply("POST" if method == "POST" else "GET", parameters, body)


def arrive(under_way: Flow, provider_id: str, reply: Reply, present: LiveSession | None) -> LiveSession | Failed:
    """What the upstream's answer comes to: a session, or a refusal that is remembered. Raises FlowLost for an answer
    nobody waits for (any more). `present` is the browser's session so far."""
    provider, memo = _claim(under_way, provider_id, reply)
    if provider is None:
        return failed(under_way, "provider_disabled", provider_id, None)
    try:
        if any(len(values) > 1 for values in reply.parameters.values()):
            raise Refused("The answer has a parameter more than once.")
        with connections.connector_of(provider) as connector:
            if connector is None:
                raise Misconfigured(f"Nobody signs in at providers of kind {provider.kind}")
            identity = connector.finish_sign_in(memo, reply)
    except (Refused, Unreachable, Misconfigured) as error:
        return failed(under_way, _reason(error), provider.id, provider.name, str(error))
    with unit(under_way.scope):
        return admit(under_way, provider, identity, present)


def begin_sign_out(ended: LiveSession, back_to: str) -> Departure | None:
    """Where the browser goes to end the upstream's session too; None where there is no such place, or no answer."""
    with unit(ended.scope) as session:
        row = session.get(SessionRow, (ended.scope.tenant_id, ended.id))
        kept = sessions.upstream_of(row) if row is not None else None
        provider = _provider(ended.provider_id) if ended.provider_id else None
    memo = sessions.unpacked((kept or {}).get("memo"))
    if provider is None or memo is None:
        return None
    try:
        with connections.connector_of(provider) as speaker:
            connector: object = speaker
            if not isinstance(connector, SignOut):
                return None
            return connector.begin_sign_out(memo, ReturnTo(back_to, browser.new_secret()))
    except (Refused, Unreachable, Misconfigured) as error:
        log.info("no signing out at %s: %s", provider.id, error)
        return None


def _claim(under_way: Flow, provider_id: str, reply: Reply) -> tuple[Provider | None, bytes]:
    """The departure this answers, once. Raises FlowLost."""
    states = reply.parameters.get("state", ())
    if len(states) != 1:
        raise FlowLost("flow_expired")
    with unit(under_way.scope) as session:
        row = session.scalar(
            sa.select(SignInFlow)
            .where(
                SignInFlow.id == under_way.id,
                SignInFlow.provider_id == provider_id,
                SignInFlow.state == browser.digest(states[0]),
                SignInFlow.finished_at.is_(None),
            )
            .with_for_update()
        )
        if row is None or row.memo is None:
            raise FlowLost("flow_expired")
        memo = running.vault().open(row.memo, **_place(under_way, "memo"))
        row.state = row.memo = row.reply = None
        return _provider(provider_id), memo


def admit(
    under_way: Flow, provider: Provider, identity: Identity, present: LiveSession | None, record: Record | None = None
) -> LiveSession | Failed:
    """Whom the upstream named, if he is somebody here: his session. In the open unit of work. `record` is his, when he
    is to become of it what a sync would make of it."""

    def refused(reason: str) -> Failed:
        flow.refuse(under_way, reason, provider_id=provider.id, detail=identity.name)
        return Failed(reason, provider.name)

    # Read again: it may have been disabled or changed while we waited.
    row = db.session().scalar(
        sa.select(IdentityProvider)
        .where(IdentityProvider.id == provider.id, IdentityProvider.enabled, IdentityProvider.sign_in)
        .with_for_update(read=True)
    )
    if row is None:
        return refused("provider_disabled")
    if row.version != provider.version:
        return refused("upstream_refused")
    if identity.once is not None and not _first_time(provider.id, *identity.once):
        return refused("upstream_refused")
    if record is not None:
        # As if the latest pass had met it: one that is under way does not take it for absent.
        Directory().apply([record], row, _latest_run(provider.id))
    admitted = Directory().admit(identity, row)
    if admitted.user_id is None:
        # The directory has told why, in an event of its own.
        flow.turn_back(under_way, admitted.refused or "not_known")
        return Failed(admitted.refused or "not_known", provider.name)
    began = flow.signed_in(
        under_way,
        admitted.user_id,
        provider_id=provider.id,
        amr=identity.amr,
        auth_time=identity.auth_time,
        upstream={"session": identity.session, "memo": sessions.packed(identity.sign_out_memo)},
        replacing=present,
    )
    return Failed(began, provider.name) if isinstance(began, str) else began


def _first_time(provider_id: str, name: str, until: datetime) -> bool:
    """Whether this assertion had not been used before; from now on it has."""
    claimed = db.session().execute(
        pg.insert(OneTime)
        .values(
            tenant_id=current_tenant(),
            purpose=_PURPOSE,
            digest=hashlib.sha256(f"{provider_id} {name}".encode()).digest(),
            expires_at=max(until, datetime.now(UTC)),
        )
        .on_conflict_do_nothing()
        .returning(OneTime.digest)
    )
    return claimed.first() is not None


def _latest_run(provider_id: str) -> int:
    return db.session().scalar(sa.select(sa.func.max(SyncRun.no)).where(SyncRun.provider_id == provider_id)) or 0


def _provider(provider_id: str) -> Provider | None:
    row = db.session().scalar(
        sa.select(IdentityProvider).where(
            IdentityProvider.id == provider_id, IdentityProvider.enabled, IdentityProvider.sign_in
        )
    )
    return None if row is None else connections.provider_of(row)


def failed(
    under_way: Flow, reason: str, provider_id: str | None, name: str | None, detail: str | None = None
) -> Failed:
    """Remember why it led nowhere. Opens a unit of work of its own."""
    with unit(under_way.scope):
        known: Sequence[str] = (
            db.session().scalars(sa.select(IdentityProvider.name).where(IdentityProvider.id == provider_id)).all()
        )
        flow.refuse(under_way, reason, provider_id=provider_id if known else None, detail=detail)
    return Failed(reason, name or (known[0] if known else None))


def _reason(error: Refused | Unreachable | Misconfigured) -> str:
    match error:
        case Unreachable():
            return "upstream_unavailable"
        case Misconfigured():
            return "upstream_misconfigured"
    return "upstream_refused"


def _place(under_way: Flow, column: str) -> dict[str, str]:
    tenant = under_way.scope.tenant_id or ""
    return {"table": "sign_in_flows", "column": column, "tenant": tenant, "row": under_way.id}

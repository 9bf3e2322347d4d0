"""One sign-in under way, and the one dispatcher that decides what comes next.

A flow keeps what was asked and how far it is, for fifteen minutes, for the browser that began it and nobody else.
`next_step` decides from stored state alone; steps never lead to one another. Everything here works in the open unit of
work of the flow's tenant. The way to an upstream and back is `upstream`'s, answering the application `oidc`'s.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from broker import access, events
from broker.context import Actor, Scope, acting, current_request_id
from broker.db import current_tenant, db
from broker.errors import BadRequest
from broker.models import SignInFlow, User
from broker.sign_in import browser, consents, realms, sessions
from broker.sign_in.realms import Upstream
from broker.sign_in.requests import LIFE, AuthRequest, IssuerKind
from broker.sign_in.sessions import LiveSession
from broker.standing import Subject, may_receive_tokens, standing

LEEWAY = timedelta(minutes=1)
"""Between an upstream's clock and ours."""

CANCELLED = "cancelled"
_LONGEST_NAME = 320


class FlowLost(BadRequest):
    """There is no such sign-in for this browser. `reason`: `flow_expired`, or `cookies_missing`."""

    title = "This sign-in cannot go on"

    def __init__(self, reason: str) -> None:
        super().__init__(note=reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Flow:
    """A sign-in under way as it was read. `username` is what the person typed, `secret` what the browser showed,
    `error` why it was turned back."""

    id: str
    scope: Scope
    request: AuthRequest | None
    issuer: IssuerKind
    username: str | None
    provider_id: str | None
    departed: bool
    session_id: str | None
    consented: bool
    error: str | None
    created_at: datetime
    secret: str = field(repr=False)

    def csrf(self) -> str:
        return browser.proof(self.secret, f"flow {self.id}")

    def proven(self) -> bool:
        """Whether the form that was sent is one of this flow's pages."""
        return browser.proven(self.secret, f"flow {self.id}")

    @property
    def name(self) -> str | None:
        """Who it may be: what the person typed, else the application's hint."""
        return self.username or (_name(self.request.login_hint) if self.request else None)

    @property
    def prompt(self) -> frozenset[str]:
        return self.request.prompt if self.request else frozenset()

    @property
    def max_age(self) -> int | None:
        return self.request.max_age if self.request else None


@dataclass(frozen=True, slots=True)
class Choose:
    """Ask who it is, or which way: a page."""

    username: str | None
    upstreams: Sequence[Upstream]
    ask_password: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Depart:
    """Go to this upstream. `chosen`: on a page, whose form policy holds redirects back. `another`: than the person
    who is signed in here, and there most likely, too."""

    provider_id: str
    chosen: bool = False
    another: bool = False


@dataclass(frozen=True, slots=True)
class AskConsent:
    """Ask whether the application may have these scopes: a page."""

    scopes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Barred:
    """Signed in, but the application is not for this person: a page with the reason, and a way back."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    session: LiveSession


@dataclass(frozen=True, slots=True)
class Refused:
    """The application is told no (OpenID Connect Core section 3.1.2.6)."""

    error: str
    description: str


Step = Choose | Depart | AskConsent | Barred | Done | Refused


def begin(
    scope: Scope, request: AuthRequest | None, *, username: str | None = None, provider_id: str | None = None
) -> Flow:
    """A new sign-in of this browser, which keeps its cookie with this answer. Without a request it leads to the
    launcher. `username` is what the person typed already, `provider_id` an upstream somebody asks for."""
    secret = browser.new_tab(browser.flow_cookie(scope.slug or ""), seconds=LIFE)
    now = datetime.now(UTC)
    row = SignInFlow(
        id=f"{scope.slug}.{secrets.token_urlsafe(24)}",
        browser=browser.digest(secret),
        request=request and request.stored(),
        issuer=request.issuer if request else "tenant",
        username=_name(username),
        provider_id=request.provider if request else provider_id,
        consented=False,
        created_at=now,
        expires_at=now + timedelta(seconds=LIFE),
    )
    db.session().add(row)
    db.session().flush()
    return _flow(row, scope, secret)


def scope_of(flow_id: str) -> Scope | None:
    """The tenant a flow's id names, for the platform issuer's endpoints. Outside any unit of work."""
    slug, dot, _ = flow_id.partition(".")
    return access.scope_for_slug(slug) if dot else None


def load(scope: Scope, flow_id: str, *, issuer: IssuerKind | None = None) -> Flow:
    """This browser's sign-in, while it may go on; of that issuer, where one answers. Raises FlowLost."""
    row = _row(scope, flow_id)
    if row is None or issuer not in (None, row.issuer):
        raise FlowLost("flow_expired")
    held = browser.tabs(browser.flow_cookie(scope.slug or ""))
    secret = next((one for one in held if hmac.compare_digest(browser.digest(one), row.browser)), None)
    if secret is None:
        raise FlowLost("flow_expired" if held else "cookies_missing")
    return _flow(row, scope, secret)


def next_step(flow: Flow, session: LiveSession | None) -> Step:
    """What comes next, from what is stored. `session` is the browser's at the flow's tenant."""
    silent = "none" in flow.prompt
    if flow.error == CANCELLED and flow.request:
        return Refused("access_denied", "The person did not go on")
    if session is None or session.scope.tenant_id != flow.scope.tenant_id:
        if silent:
            return Refused("login_required", "Nobody is signed in")
        asked = Subject(application_id=flow.request.application_id if flow.request else None)
        closed = may_receive_tokens(standing(asked))
        return Barred(closed) if closed else _ask_who(flow)
    if _too_old(flow, session):
        if silent:
            return Refused("login_required", "The person would have to sign in again")
        if session.id == flow.session_id:
            return Refused("login_required", "The upstream did not ask the person to sign in again")
        return _ask_who(flow)
    if flow.request and flow.request.person not in (None, session.user_id):
        if silent or session.id == flow.session_id:
            return Refused("login_required", "Another person is signed in")
        step = _ask_who(flow)
        return replace(step, another=True) if isinstance(step, Depart) else step
    if flow.request is None:
        return Done(session)
    about = Subject(user_id=session.user_id, application_id=flow.request.application_id, session_id=session.id)
    reason = may_receive_tokens(standing(about))
    if reason is not None:
        return Refused("access_denied", "The application is not for this person") if silent else Barred(reason)
    missing = consents.missing(flow.request, session, answered=flow.consented)
    if missing:
        if silent:
            return Refused("consent_required", "The person would have to consent")
        return AskConsent(missing)
    return Done(session)


def consume(flow: Flow) -> bool:
    """End the flow, in the transaction of what comes of it: True once, False for everybody later."""
    done = db.session().scalar(
        sa.update(SignInFlow)
        .where(SignInFlow.id == flow.id, SignInFlow.finished_at.is_(None), SignInFlow.expires_at > sa.func.now())
        .values(finished_at=sa.func.now(), memo=None, reply=None, state=None)
        .returning(SignInFlow.id)
        .execution_options(synchronize_session=False)
    )
    return done is not None


def say_name(flow: Flow, username: str) -> None:
    """The person typed a name: whatever was under way before is not any more."""
    _change(flow, username=_name(username), provider_id=None, state=None, memo=None, reply=None, error=None)


def choose(flow: Flow, provider_id: str) -> None:
    """The person chose an upstream. One that is none of the tenant's is forgotten by `next_step`."""
    _change(flow, provider_id=provider_id, state=None, memo=None, reply=None, error=None)


def turn_back(flow: Flow, reason: str) -> None:
    """The way that was tried led nowhere: ask again, and say why."""
    _change(flow, provider_id=None, state=None, memo=None, reply=None, error=reason)


def cancel(flow: Flow) -> None:
    _change(flow, error=CANCELLED)


def consent(flow: Flow, session: LiveSession, scopes: Sequence[str]) -> None:
    """The person allowed the flow's application these scopes."""
    assert flow.request is not None
    consents.give(flow.request, session, scopes)
    _change(flow, consented=True)


def signed_in(
    flow: Flow,
    user_id: str,
    *,
    provider_id: str | None,
    amr: Sequence[str],
    auth_time: datetime | None = None,
    upstream: dict[str, str | None] | None = None,
    replacing: LiveSession | None = None,
) -> LiveSession | str:
    """Begin the session of somebody who has proven who he is; or the reason why he gets none, which is remembered."""
    reason = may_receive_tokens(standing(Subject(user_id=user_id, provider_id=provider_id)))
    if reason is not None:
        refuse(flow, reason, provider_id=provider_id, user_id=user_id)
        return reason
    scope, name = flow.scope, name_of(user_id)
    with acting(Actor("user", user_id, scope.tenant_id, scope.partner_id, name), current_request_id()):
        row, secret = sessions.begin(
            user_id, provider_id=provider_id, amr=amr, auth_time=auth_time, upstream=upstream, replacing=replacing
        )
        under_way = {"provider_id": None, "state": None, "memo": None, "reply": None, "error": None}
        _change(flow, session_id=row.id, consented=False, **under_way)
        about = {"user_id": user_id, "provider_id": provider_id, "amr": list(amr), **_application(flow)}
        batch = events.Changes()
        batch.add("sign_in.succeeded", "Session", row.id, about)
        events.record(batch)
    return LiveSession(row.id, scope, user_id, name, provider_id, tuple(amr), row.auth_time, secret)


def refuse(
    flow: Flow, reason: str, *, provider_id: str | None = None, user_id: str | None = None, detail: str | None = None
) -> None:
    """Remember that a sign-in was refused, and turn the flow back. `detail` is for administrators, never a secret."""
    note_refusal(flow, reason, provider_id=provider_id, user_id=user_id, detail=detail)
    turn_back(flow, reason)


def note_refusal(
    flow: Flow, reason: str, *, provider_id: str | None = None, user_id: str | None = None, detail: str | None = None
) -> None:
    """Remember that something was refused, whatever becomes of the flow: once for each flow, reason and whom it is
    about, for anybody can send a request again."""
    if not _first_note(flow, f"{reason} {provider_id or ''} {user_id or ''}"):
        return
    said = {"reason": reason, "provider_id": provider_id, "user_id": user_id, "detail": detail, **_application(flow)}
    kind, id = ("User", user_id) if user_id else ("IdentityProvider", provider_id) if provider_id else ("Tenant", None)
    batch = events.Changes()
    about = {name: value for name, value in said.items() if value is not None}
    batch.add("sign_in.refused", kind, id or current_tenant(), about)
    events.record(batch)


def reloaded(flow: Flow) -> Flow:
    """The flow as it is stored now. Raises FlowLost."""
    row = _row(flow.scope, flow.id)
    if row is None:
        raise FlowLost("flow_expired")
    db.session().refresh(row)
    return _flow(row, flow.scope, flow.secret)


def name_of(user_id: str) -> str:
    """What a person is called on pages and in the log."""
    found = db.session().execute(sa.select(User.display_name, User.name).where(User.id == user_id)).one()
    return str(found.display_name or found.name)


def address(flow: Flow, step: Step) -> str:
    """Where the browser goes for that step, on our own host."""
    slug = flow.scope.slug
    match step:
        case Choose() | Depart() | Barred():
            return f"/t/{slug}/sign-in?flow={flow.id}"
        case AskConsent():
            return f"/t/{slug}/consent?flow={flow.id}"
        case Done() | Refused():
            if flow.request is None:
                return f"/t/{slug}/apps"
            issuer = "/api/v1/platform" if flow.issuer == "platform" else f"/api/v1/auth/tenants/{slug}"
            return f"{issuer}/oauth/authorize?flow={flow.id}"


def _ask_who(flow: Flow) -> Choose | Depart:
    ways, hints = realms.ways(), flow.request
    typed = flow.username is not None
    tried = flow.departed or flow.error is not None
    wanted = None if flow.departed else ways.upstream(flow.provider_id)
    if wanted is not None and wanted.departs:
        return Depart(wanted.id, chosen=hints is None or wanted.id != hints.provider)
    if wanted is None and not tried and (typed or "select_account" not in flow.prompt):
        home = ways.home_of(flow.name)
        if home is None and len(ways.upstreams) == 1 and not ways.by_password:
            home = ways.upstreams[0]
        if home is not None and home.departs:
            return Depart(home.id, chosen=typed)
    discoverable = wanted is None and any(one.domains for one in ways.upstreams)
    ask_password = ways.by_password and (tried or flow.name is not None or not discoverable)
    error = flow.error or ("no_home" if typed and not ask_password and not tried else None)
    return Choose(flow.name, ways.upstreams, ask_password, error)


def _too_old(flow: Flow, session: LiveSession) -> bool:
    here = session.id == flow.session_id
    if flow.prompt & {"login", "select_account"} and not here:
        return True
    if "login" in flow.prompt and session.auth_time < flow.created_at - LEEWAY:
        return True
    if flow.max_age is None:
        return False
    oldest = flow.created_at - LEEWAY if here else datetime.now(UTC)
    return session.auth_time < oldest - timedelta(seconds=flow.max_age)


def _application(flow: Flow) -> dict[str, str]:
    return {"application_id": flow.request.application_id} if flow.request else {}


def _first_note(flow: Flow, note: str) -> bool:
    noted = db.session().scalar(
        sa.update(SignInFlow)
        .where(SignInFlow.id == flow.id, ~SignInFlow.noted.contains([note]))
        .values(noted=SignInFlow.noted.concat([note]))
        .returning(SignInFlow.id)
        .execution_options(synchronize_session=False)
    )
    return noted is not None


def _row(scope: Scope, flow_id: str) -> SignInFlow | None:
    row = db.session().get(SignInFlow, (scope.tenant_id, flow_id)) if "\0" not in flow_id else None
    if row is None or row.finished_at is not None or row.expires_at <= datetime.now(UTC):
        return None
    return row


def _change(flow: Flow, **values: object) -> None:
    db.session().execute(
        sa.update(SignInFlow)
        .where(SignInFlow.id == flow.id)
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def _flow(row: SignInFlow, scope: Scope, secret: str) -> Flow:
    return Flow(
        id=row.id,
        scope=scope,
        request=AuthRequest.of_stored(row.request) if row.request else None,
        issuer="platform" if row.issuer == "platform" else "tenant",
        username=row.username,
        provider_id=row.provider_id,
        departed=row.state is not None,
        session_id=row.session_id,
        consented=row.consented,
        error=row.error,
        created_at=row.created_at,
        secret=secret,
    )


def _name(text: str | None) -> str | None:
    """A typed name, without what no name holds."""
    text = (text or "").strip()
    return text if 0 < len(text) <= _LONGEST_NAME and text.isprintable() else None

"""What a JWT opens at our own doors, and that whatever is disabled closes them at the next request."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from broker import access, ids
from broker.context import Grant as Role
from broker.context import acting, system
from broker.db import directory_writes, platform_scope, unit
from broker.directory import Directory
from broker.errors import AuthenticationRequired
from broker.models import (
    Application,
    ApplicationAccess,
    Assignment,
    Grant,
    IdentityProvider,
    Link,
    Membership,
    Resource,
    RevokedToken,
    ServiceAccount,
    Session,
    Tenant,
)
from oidc import bearers, claims
from oidc.tokens import Issuer, TokenIssuer
from tests.casting import Caller, Cast, code, give_role, make_group, make_user
from tests.conftest import make_provider
from tests.oidc.minting import (
    SignedIn,
    assign,
    make_application,
    make_service_account,
    own_token,
    sign_in,
)

SCIM = "/scim/v2/{slug}/Users?count=1"


def alter(model: type, *where: object, **values: object) -> None:
    with directory_writes(), platform_scope() as session:
        session.execute(sa.update(model).where(*where).values(**values))  # type: ignore[arg-type]


def actor(token: str) -> access.Actor:
    return access.authenticate(f"Bearer {token}")


def refused(token: str) -> bool:
    try:
        actor(token)
    except AuthenticationRequired as refusal:
        assert refusal.code == "authentication_required"
        return True
    return False


def caller(acme: Cast, token: str) -> Caller:
    return Caller(acme.client, token=token)


def test_a_persons_token_makes_the_actor_it_stands_for(acme: Cast) -> None:
    signed_in = sign_in(acme.acme, make_user(acme.acme, "alice"))
    issued = signed_in.issue(scopes=("scaikey:read", "scim"))
    found = actor(issued.token)
    assert (found.kind, found.id, found.tenant_id, found.partner_id, found.name) == (
        *("user", signed_in.user_id, acme.acme.tenant_id, acme.world.partner_id, "alice"),
    )
    assert found.scopes == {"scaikey:read", "scim"} and found.grants == frozenset() and found.audiences == {"scaikey"}
    assert found.credential_id == issued.jti and not access.use_is_due(found)
    assert found.expires_at == datetime.fromtimestamp(issued.expires_at, UTC)
    assert access.own_scope(found) == acme.acme


def test_roles_come_from_the_database_and_never_from_the_token(acme: Cast) -> None:
    user_id = make_user(acme.acme)
    inner = make_group(acme.acme, user_id)
    outer = make_group(acme.acme, inner)
    give_role(acme.acme, outer, "tenant_admin", acme.acme.tenant_id)
    token = sign_in(acme.acme, user_id).token()
    assert actor(token).grants == {Role("tenant_admin", acme.acme.tenant_id)}
    assert caller(acme, token).get("/domains").status_code == 200
    assert acme.client.get(SCIM.format(slug=acme.acme.slug), headers=bearer(token)).status_code == 200
    with directory_writes(), platform_scope() as session:
        session.execute(sa.delete(Membership).where(Membership.member_id == inner))
    assert actor(token).grants == frozenset()
    assert caller(acme, token).get("/domains").status_code == 404


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_scopes_narrow_roles(acme: Cast) -> None:
    user_id = make_user(acme.acme)
    give_role(acme.acme, user_id, "tenant_admin", acme.acme.tenant_id)
    reading = caller(acme, sign_in(acme.acme, user_id).token(scopes=("openid", "scaikey:read")))
    assert reading.get("/domains").status_code == 200
    assert code(reading.post("/domains", {"name": "acme.example"})) == (403, "access_denied")
    assert acme.client.get(SCIM.format(slug=acme.acme.slug), headers=bearer(reading.token or "")).status_code == 403


def test_a_token_for_another_audience_opens_neither_api_nor_scim(acme: Cast) -> None:
    user_id = make_user(acme.acme)
    give_role(acme.acme, user_id, "tenant_admin", acme.acme.tenant_id)
    signed_in = sign_in(acme.acme, user_id)
    for token in (
        signed_in.token(signed_in.client.client_id),
        signed_in.token("billing"),
        signed_in.id_token(),
        own_token(acme.acme, signed_in.client, "billing"),
    ):
        answer = caller(acme, token).get("/domains")
        assert code(answer) == (401, "authentication_required")
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
        assert acme.client.get(SCIM.format(slug=acme.acme.slug), headers=bearer(token)).status_code == 401
    assert caller(acme, signed_in.token()).get("/domains").status_code == 200


def test_a_token_opens_its_own_tenant_and_no_other(acme: Cast) -> None:
    user_id = make_user(acme.acme)
    give_role(acme.acme, user_id, "tenant_admin", acme.acme.tenant_id)
    signed_in = caller(acme, sign_in(acme.acme, user_id).token())
    assert code(signed_in.at(acme.globex).get("/domains")) == (400, "context_conflict")
    assert acme.client.get(SCIM.format(slug=acme.globex.slug), headers=bearer(signed_in.token or "")).status_code == 404


def test_the_platforms_issuer_opens_the_tenant_it_names(acme: Cast) -> None:
    client = make_application(acme.platform, acme.acme, scope="GLOBAL")
    signed_in = sign_in(acme.acme, make_user(acme.acme), client, issuer=Issuer.platform())
    assert actor(signed_in.token()).tenant_id == acme.acme.tenant_id
    bearers.check(signed_in.token(), issuer=Issuer.platform())
    with pytest.raises(AuthenticationRequired):
        bearers.check(signed_in.token(), issuer=Issuer.of_tenant(acme.acme))


def test_a_service_account_administers_within_its_scopes(acme: Cast) -> None:
    account = make_service_account(acme.acme, "reporting")
    token = own_token(acme.acme, account)
    found = actor(token)
    assert (found.kind, found.id, found.tenant_id) == ("service_account", account.id, acme.acme.tenant_id)
    assert caller(acme, token).get("/domains").status_code == 404
    give_role(acme.acme, account.id, "tenant_admin", acme.acme.tenant_id)
    assert caller(acme, token).get("/domains").status_code == 200
    assert caller(acme, token).post("/domains", {"name": f"{acme.acme.slug}.example"}).status_code == 201
    reading = own_token(acme.acme, account, scopes=("scaikey:read",))
    assert caller(acme, reading).post("/domains", {"name": "x.example"}).status_code == 403
    alter(Resource, Resource.id == account.id, active=False)
    assert refused(token)


def test_an_application_by_itself_holds_no_role(acme: Cast) -> None:
    client = make_application(acme.acme)
    found = actor(own_token(acme.acme, client))
    assert (found.kind, found.id, found.name, found.grants) == ("application", client.id, client.client_id, frozenset())
    assert caller(acme, own_token(acme.acme, client)).get("/domains").status_code == 404


Switch = Callable[[SignedIn], None]
SWITCHES: dict[str, tuple[Switch, Switch | None]] = {
    "user disabled": (
        lambda s: alter(Resource, Resource.id == s.user_id, active=False),
        lambda s: alter(Resource, Resource.id == s.user_id, active=True),
    ),
    "user's time over": (
        lambda s: alter(Resource, Resource.id == s.user_id, active_until=datetime.now(UTC) - timedelta(seconds=1)),
        lambda s: alter(Resource, Resource.id == s.user_id, active_until=None),
    ),
    "user disabled upstream": (
        lambda s: disable_upstream(s, False),
        lambda s: disable_upstream(s, True),
    ),
    "user removed": (lambda s: remove(s), None),
    "tenant suspended": (
        lambda s: alter(Tenant, Tenant.id == s.scope.tenant_id, status="suspended"),
        lambda s: alter(Tenant, Tenant.id == s.scope.tenant_id, status="active"),
    ),
    "application disabled": (
        lambda s: alter(Application, Application.id == s.client.id, enabled=False),
        lambda s: alter(Application, Application.id == s.client.id, enabled=True),
    ),
    "assignment required": (
        lambda s: alter(Application, Application.id == s.client.id, assignment_required=True),
        lambda s: assign(s.scope, s.client, s.user_id),
    ),
    "access withdrawn": (lambda s: withdraw(s), None),
    "provider disabled": (
        lambda s: alter(IdentityProvider, IdentityProvider.tenant_id == s.scope.tenant_id, enabled=False),
        lambda s: alter(IdentityProvider, IdentityProvider.tenant_id == s.scope.tenant_id, enabled=True),
    ),
    "session ended": (
        lambda s: alter(Session, Session.id == s.session_id, ended_at=datetime.now(UTC)),
        lambda s: alter(Session, Session.id == s.session_id, ended_at=None),
    ),
    "session over": (
        lambda s: alter(Session, Session.id == s.session_id, expires_at=datetime.now(UTC)),
        lambda s: alter(Session, Session.id == s.session_id, expires_at=datetime.now(UTC) + timedelta(hours=1)),
    ),
    "grant ended": (
        lambda s: alter(Grant, Grant.id == s.grant_id, ended_at=datetime.now(UTC)),
        lambda s: alter(Grant, Grant.id == s.grant_id, ended_at=None),
    ),
}


def disable_upstream(signed_in: SignedIn, active: bool) -> None:
    with directory_writes(), platform_scope() as session:
        link = session.scalar(sa.select(Link).where(Link.resource_id == signed_in.user_id))
        if link is None:
            provider = session.scalar(
                sa.select(IdentityProvider.id).where(IdentityProvider.tenant_id == signed_in.scope.tenant_id)
            )
            link = Link(
                tenant_id=signed_in.scope.tenant_id,
                provider_id=provider,
                key="k",
                resource_id=signed_in.user_id,
                kind="user",
                name="n",
                ref="n",
                digest=b"",
                quiet_digest=b"",
            )
            session.add(link)
        link.active = active


def remove(signed_in: SignedIn) -> None:
    with unit(signed_in.scope), acting(system("test")):
        Directory().remove("User", signed_in.user_id)


def withdraw(signed_in: SignedIn) -> None:
    with platform_scope() as session:
        session.execute(sa.delete(ApplicationAccess).where(ApplicationAccess.application_id == signed_in.client.id))


@pytest.mark.parametrize("name", SWITCHES)
def test_whatever_is_switched_off_refuses_the_token_on_the_next_request(acme: Cast, name: str) -> None:
    off, on = SWITCHES[name]
    provider_id = make_provider(acme.acme)
    signed_in = sign_in(acme.acme, make_user(acme.acme), provider_id=provider_id)
    neighbour = sign_in(acme.globex, make_user(acme.globex)).token()
    token = signed_in.token()
    assert not refused(token)
    off(signed_in)
    assert refused(token) and not refused(neighbour)
    assert code(caller(acme, token).get("/auth/whoami")) == (401, "authentication_required")
    if on is not None:
        on(signed_in)
        assert not refused(token)


def test_access_asked_for_offline_outlives_the_session_and_not_the_grant(acme: Cast) -> None:
    signed_in = sign_in(acme.acme, make_user(acme.acme))
    token = signed_in.token(scopes=("openid", "offline_access"))
    alter(Session, Session.id == signed_in.session_id, expires_at=datetime.now(UTC))
    assert refused(signed_in.token()) and not refused(token)
    alter(Grant, Grant.id == signed_in.grant_id, ended_at=datetime.now(UTC))
    assert refused(token)


def test_a_revoked_token_is_refused_and_its_sisters_are_not(acme: Cast) -> None:
    signed_in, account = sign_in(acme.acme, make_user(acme.acme)), make_service_account(acme.acme, "a")
    own = TokenIssuer(Issuer.of_tenant(acme.acme))
    for issue in (
        signed_in.issue,
        lambda: own.access_token(client=account, audience="scaikey", scopes=()),
    ):
        revoked, sister = issue(), issue()
        with unit(acme.acme) as session:
            session.add(RevokedToken(jti=revoked.jti, expires_at=datetime.now(UTC) + timedelta(hours=1)))
        assert refused(revoked.token) and not refused(sister.token)


def test_a_revocation_in_another_tenant_is_none_here(acme: Cast) -> None:
    issued = sign_in(acme.acme, make_user(acme.acme)).issue()
    with unit(acme.globex) as session:
        session.add(RevokedToken(jti=issued.jti, expires_at=datetime.now(UTC) + timedelta(hours=1)))
    assert not refused(issued.token)


def test_a_client_that_is_gone_has_no_tokens(acme: Cast) -> None:
    client = make_application(acme.acme)
    signed_in, own = sign_in(acme.acme, make_user(acme.acme), client).token(), own_token(acme.acme, client)
    assert not refused(signed_in) and not refused(own)
    with platform_scope() as session:
        session.execute(sa.delete(Assignment).where(Assignment.application_id == client.id))
        session.execute(sa.delete(Application).where(Application.id == client.id))
    assert refused(signed_in) and refused(own)


def test_a_grant_that_never_was_and_a_service_account_abroad_are_refused(acme: Cast) -> None:
    signed_in = sign_in(acme.acme, make_user(acme.acme))
    person = claims.person(signed_in.user_id, None, tenant_id=acme.acme.tenant_id)
    token = TokenIssuer(signed_in.issuer).access_token(
        client=signed_in.client,
        audience="scaikey",
        scopes=(),
        person=person,
        grant_id=ids.new("ses"),
        authentication=signed_in.auth,
    )
    assert refused(token.token)
    account = make_service_account(acme.acme, "b")
    assert not refused(own_token(acme.acme, account)) and refused(own_token(acme.globex, account))


def test_what_was_taken_from_a_client_is_taken_from_its_tokens(acme: Cast) -> None:
    user_id, account = make_user(acme.acme), make_service_account(acme.acme, "robot")
    signed_in = sign_in(acme.acme, user_id)
    for holder in (user_id, account.id):
        give_role(acme.acme, holder, "tenant_admin", acme.acme.tenant_id)
    clients = (
        (signed_in.token(), Application, Application.id == signed_in.client.id, "allowed_audiences"),
        (own_token(acme.acme, account), ServiceAccount, ServiceAccount.id == account.id, "audiences"),
    )
    for token, model, where, audiences in clients:
        opened = caller(acme, token)
        assert opened.post("/domains", {"name": f"{ids.new('dom')[4:].lower()}.example"}).status_code == 201
        alter(model, where, scopes=["scaikey:read", "scaikey:everything"])
        assert actor(token).scopes == {"scaikey:read"}
        assert opened.get("/domains").status_code == 200
        assert code(opened.post("/domains", {"name": "x.example"})) == (403, "access_denied")
        assert acme.client.get(SCIM.format(slug=acme.acme.slug), headers=bearer(token)).status_code == 403
        alter(model, where, **{audiences: ["billing"]})
        assert refused(token)
        alter(model, where, **{audiences: ["billing", "scaikey"]})
        assert not refused(token)


def test_a_token_that_ended_says_so_over_http(acme: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    signed_in = sign_in(acme.acme, make_user(acme.acme))
    token = signed_in.issue(lifetime=1).token
    monkeypatch.setattr("joserfc._rfc7519.claims.time.time", lambda: float(2**31))
    assert code(caller(acme, token).get("/domains")) == (401, "token_expired")

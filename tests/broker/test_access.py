"""Who a bearer token makes you, and when it makes you nobody."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from flask import Flask

from broker import access, credentials, ids
from broker.context import ANONYMOUS, Grant, Scope, acting, system
from broker.db import db, directory_writes, platform_scope, unit
from broker.directory import Directory
from broker.errors import AuthenticationRequired, Forbidden, NotFound, TokenExpired
from broker.models import (
    Group,
    IdentityProvider,
    Link,
    Membership,
    PersonalAccessToken,
    RoleAssignment,
    ScimToken,
    Tenant,
    User,
)
from broker.policy import Action
from tests import casting
from tests.conftest import World, make_provider


def make_user(scope: Scope, name: str = "alice", **fields: object) -> str:
    user_id = ids.new("usr")
    with directory_writes(), platform_scope() as session:
        session.add(User(tenant_id=scope.tenant_id, id=user_id, name=name, name_key=user_id, document=b"{}", **fields))
    return user_id


def make_group(scope: Scope, *members: str) -> str:
    group_id = ids.new("grp")
    with directory_writes(), platform_scope() as session:
        session.add(Group(tenant_id=scope.tenant_id, id=group_id, name="g", name_key=group_id, document=b"{}"))
        session.flush()
        for member in members:
            session.add(Membership(tenant_id=scope.tenant_id, group_id=group_id, member_id=member, member_key=member))
    return group_id


def give(scope: Scope, principal_id: str, role: str, scope_id: str | None) -> None:
    with platform_scope() as session:
        session.add(
            RoleAssignment(
                tenant_id=scope.tenant_id, id=ids.new("rol"), role=role, principal_id=principal_id, scope_id=scope_id
            )
        )


def pat(scope: Scope, user_id: str, **options: object) -> str:
    with unit(scope), acting(system("test")):
        return credentials.mint_pat(user_id, name="test", **options)[1]  # type: ignore[arg-type]


def alter(model: type, **values: object) -> None:
    with directory_writes(), platform_scope() as session:
        session.execute(sa.update(model).where(model.id == values.pop("id")).values(**values))  # type: ignore[attr-defined]


def bearer(secret: str) -> str:
    return f"Bearer {secret}"


def test_a_token_is_its_prefix_256_bits_and_a_checksum() -> None:
    secret = credentials.new_secret(credentials.PAT_PREFIX)
    assert secret.startswith("skt_") and len(secret) == 4 + 43 + 6
    assert credentials.digest_of(secret) is not None
    last = "A" if secret[-1] != "A" else "B"
    assert credentials.digest_of(secret[:-1] + last) is None
    assert credentials.digest_of("skx_" + secret[4:]) is None


def test_nobody_without_a_header(app: Flask) -> None:
    assert access.authenticate(None) is ANONYMOUS


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer skt_short", "Bearer \u00e9" * 9])
def test_a_malformed_header_is_refused(app: Flask, header: str) -> None:
    with pytest.raises(AuthenticationRequired):
        access.authenticate(header)


def test_a_token_names_its_user_tenant_and_scopes(world: World) -> None:
    user_id = make_user(world.acme)
    actor = access.authenticate(bearer(pat(world.acme, user_id, scopes=["scim"])))
    assert (actor.kind, actor.id, actor.tenant_id, actor.partner_id) == (
        "user",
        user_id,
        world.acme.tenant_id,
        world.partner_id,
    )
    assert actor.scopes == {"scim"} and actor.grants == frozenset() and actor.name == "alice"
    assert access.own_scope(actor) == world.acme


def test_a_token_that_was_never_made_is_refused(world: World) -> None:
    with pytest.raises(AuthenticationRequired):
        access.authenticate(bearer(credentials.new_secret("skt_")))


def test_expired_revoked_and_foreign_tokens_are_refused(world: World) -> None:
    user_id = make_user(world.acme)
    secret = pat(world.acme, user_id)
    actor = access.authenticate(bearer(secret))
    alter(PersonalAccessToken, id=actor.credential_id, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(TokenExpired):
        access.authenticate(bearer(secret))
    alter(PersonalAccessToken, id=actor.credential_id, revoked_at=datetime.now(UTC))
    with pytest.raises(AuthenticationRequired) as refusal:
        access.authenticate(bearer(secret))
    assert refusal.value.code == "authentication_required"
    other = pat(world.acme, user_id, audiences=["billing"])
    with pytest.raises(AuthenticationRequired):
        access.authenticate(bearer(other))
    assert access.authenticate(bearer(other), audience="billing").id == user_id


@pytest.mark.parametrize(
    "change",
    [
        {"active": False},
        {"removed_at": datetime(2020, 1, 1, tzinfo=UTC)},
        {"active_until": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
)
def test_a_disabled_removed_or_outlived_user_is_refused_on_the_next_request(
    world: World, change: dict[str, object]
) -> None:
    user_id = make_user(world.acme)
    secret = pat(world.acme, user_id)
    assert access.authenticate(bearer(secret)).id == user_id
    alter(User, id=user_id, **change)
    with pytest.raises(AuthenticationRequired):
        access.authenticate(bearer(secret))


def test_somebody_disabled_upstream_is_refused_while_the_disable_itself_is_held(world: World) -> None:
    user_id = make_user(world.acme)
    secret = pat(world.acme, user_id)
    provider_id = make_provider(world.acme)
    with directory_writes(), platform_scope() as session:
        session.add(
            Link(
                tenant_id=world.acme.tenant_id,
                provider_id=provider_id,
                key="k",
                resource_id=user_id,
                kind="user",
                name="CN=a",
                ref="cn=a",
                digest=b"",
                quiet_digest=b"",
            )
        )
    assert access.authenticate(f"Bearer {secret}").id == user_id
    with directory_writes(), platform_scope() as session:
        session.execute(sa.update(Link).where(Link.resource_id == user_id).values(active=False))
    with pytest.raises(AuthenticationRequired):
        access.authenticate(f"Bearer {secret}")


def test_tokens_of_a_suspended_tenant_are_refused(world: World) -> None:
    secret = pat(world.acme, make_user(world.acme))
    alter(Tenant, id=world.acme.tenant_id, status="suspended")
    with pytest.raises(AuthenticationRequired):
        access.authenticate(bearer(secret))
    alter(Tenant, id=world.acme.tenant_id, status="active")
    assert access.authenticate(bearer(secret)).tenant_id == world.acme.tenant_id


def test_scim_tokens_provision_their_tenant_only(world: World) -> None:
    provider = make_provider(world.acme)
    with unit(world.acme), acting(system("test")):
        token, secret = credentials.mint_scim_token(
            {"name": "hr", "identity_provider_id": provider, "allow_password": True}
        )
        token_id = token.id
    actor = access.authenticate(bearer(secret))
    assert (actor.kind, actor.id, actor.scopes, actor.allow_password) == ("scim_token", token_id, {"scim"}, True)
    assert actor.tenant_id == world.acme.tenant_id and not actor.grants


def test_roles_come_directly_and_through_nested_groups_even_in_a_cycle(world: World) -> None:
    direct, nested, nobody = (make_user(world.acme) for _ in range(3))
    inner = casting.make_group(world.acme, nested)
    outer = casting.make_group(world.acme, inner)
    with unit(world.acme), acting(system("test")):
        Directory().change_members(inner, add=[outer])
    grant = Grant("tenant_admin", world.acme.tenant_id)
    for principal in (direct, outer):
        give(world.acme, principal, "tenant_admin", world.acme.tenant_id)
    assert access.authenticate(bearer(pat(world.acme, direct))).grants == {grant}
    secret = pat(world.acme, nested)
    assert access.authenticate(bearer(secret)).grants == {grant}
    assert access.authenticate(bearer(pat(world.acme, nobody))).grants == frozenset()
    with unit(world.acme), acting(system("test")):
        Directory().remove("Group", inner)
    assert access.authenticate(bearer(secret)).grants == frozenset()


def test_a_group_that_is_removed_gives_nothing_even_with_its_members_left(world: World) -> None:
    """Rows that the directory would not leave: they must grant nothing all the same."""
    member = make_user(world.acme)
    group = make_group(world.acme, member)
    give(world.acme, group, "tenant_admin", world.acme.tenant_id)
    secret = pat(world.acme, member)
    assert access.authenticate(bearer(secret)).grants == {Grant("tenant_admin", world.acme.tenant_id)}
    alter(Group, id=group, removed_at=datetime.now(UTC))
    assert access.authenticate(bearer(secret)).grants == frozenset()


def test_wide_roles_hold_only_where_their_holders_live(world: World) -> None:
    """Rows that no registry would write: they must grant nothing all the same."""
    stray = make_user(world.acme)
    give(world.acme, stray, "super_admin", None)
    give(world.acme, stray, "partner_admin", world.partner_id)
    give(world.acme, stray, "tenant_admin", world.globex.tenant_id)
    assert access.authenticate(bearer(pat(world.acme, stray))).grants == frozenset()
    admin = make_user(world.home)
    give(world.home, admin, "partner_admin", world.partner_id)
    give(world.home, admin, "partner_admin", ids.new("prt"))
    assert access.authenticate(bearer(pat(world.home, admin))).grants == {Grant("partner_admin", world.partner_id)}


def test_partner_roles_never_come_through_a_group(world: World) -> None:
    member = make_user(world.home)
    give(world.home, make_group(world.home, member), "partner_admin", world.partner_id)
    assert access.authenticate(bearer(pat(world.home, member))).grants == frozenset()


def test_scopes_are_found_by_slug_and_by_id(world: World) -> None:
    assert access.scope_for_slug(world.acme.slug or "") == world.acme
    assert access.scope_for_tenant(world.globex.tenant_id or "") == world.globex
    assert access.scope_for_slug("no-such-slug") is None and access.scope_for_tenant("tnt_none") is None
    assert access.scope_for_slug("nul\0") is None


def test_fetch_shows_rows_of_the_open_scope_to_those_who_may(world: World) -> None:
    provider = make_provider(world.acme)
    admin, person = make_user(world.acme), make_user(world.acme)
    give(world.acme, admin, "tenant_admin", world.acme.tenant_id)
    administrator = access.authenticate(bearer(pat(world.acme, admin, scopes=["scaikey:write"])))
    with unit(world.acme), acting(administrator):
        assert access.fetch(IdentityProvider, provider, to=Action.PROVIDER_WRITE, lock=True).id == provider
        with pytest.raises(NotFound):
            access.fetch(IdentityProvider, ids.new("idp"), to=Action.PROVIDER_READ)
    with unit(world.globex), acting(administrator), pytest.raises(NotFound):
        access.fetch(IdentityProvider, provider, to=Action.PROVIDER_READ)
    stranger = access.authenticate(bearer(pat(world.acme, person)))
    with unit(world.acme), acting(stranger), pytest.raises(NotFound):
        access.fetch(IdentityProvider, provider, to=Action.PROVIDER_READ)
    reader = access.authenticate(bearer(pat(world.acme, admin)))
    with unit(world.acme), acting(reader), pytest.raises(Forbidden):
        access.fetch(IdentityProvider, provider, to=Action.PROVIDER_WRITE)


def test_fetch_does_not_show_removed_people(world: World) -> None:
    admin, gone = make_user(world.acme), make_user(world.acme, removed_at=datetime.now(UTC))
    give(world.acme, admin, "tenant_admin", world.acme.tenant_id)
    actor = access.authenticate(bearer(pat(world.acme, admin, scopes=["scim"])))
    with unit(world.acme), acting(actor), pytest.raises(NotFound):
        access.fetch(User, gone, to=Action.DIRECTORY_READ)


def test_the_last_use_of_a_token_is_noted_once_a_minute(world: World) -> None:
    actor = access.authenticate(bearer(pat(world.acme, make_user(world.acme))))
    assert access.use_is_due(actor) and not access.use_is_due(actor)
    access.note_use(actor)
    with unit(world.acme) as session:
        token = session.scalars(
            sa.select(PersonalAccessToken).where(PersonalAccessToken.id == actor.credential_id)
        ).one()
        assert token.last_used_at is not None and token.updated_at == token.created_at
    assert not access.use_is_due(ANONYMOUS)


def test_only_the_digest_of_a_token_is_stored(world: World) -> None:
    secret = pat(world.acme, make_user(world.acme))
    with unit(world.acme):
        found = (
            db.session()
            .execute(
                sa.select(sa.func.to_jsonb(sa.literal_column("personal_access_tokens"))).select_from(
                    PersonalAccessToken
                )
            )
            .scalars()
            .all()
        )
    assert secret not in str(found) and secret[4:] not in str(found)
    assert ScimToken.__table__.c.digest.unique

"""Clients' secrets: made once, told once, valid side by side while one takes over from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from broker import credentials
from broker.context import acting, system
from broker.credentials import (
    MOST_CLIENT_SECRETS,
    client_secret_valid,
    forget_client_secrets,
    mint_client_secret,
)
from broker.db import unit
from broker.errors import Conflict, ValidationFailed
from broker.models import ClientSecret, Event
from broker.registry import applications
from tests.casting import client_secrets
from tests.conftest import World


@pytest.fixture
def application(world: World) -> Iterator[str]:
    """An application of acme, in whose unit of work the test goes on."""
    with acting(system("test")), unit(world.acme):
        yield applications.create({"name": "Wiki", "type": "web"}).id


def holds(secret: str, application: str) -> bool:
    return client_secret_valid(secret, client_secrets(application))


def test_a_secret_is_kept_as_a_digest_only(application: str) -> None:
    row, secret = mint_client_secret(application_id=application)
    assert secret.startswith("skc_") and len(secret) == 53
    assert row.digest == hashlib.sha256(secret.encode()).digest() and row.expires_at is None
    assert holds(secret, application)
    assert not holds(secret[:-1] + ("a" if secret[-1] != "a" else "b"), application)
    assert not holds("", application) and not holds("\ud800", application)


def test_the_earlier_secret_holds_until_the_overlap_has_passed(application: str, world: World) -> None:
    _, first = mint_client_secret(application_id=application)
    _, second = mint_client_secret(application_id=application, overlap=timedelta(hours=1))
    assert holds(first, application) and holds(second, application)
    _, third = mint_client_secret(application_id=application, overlap=timedelta(0))
    assert not holds(first, application) and not holds(second, application) and holds(third, application)


def test_a_rotation_never_lengthens_what_was_to_end(application: str) -> None:
    row, _ = mint_client_secret(application_id=application)
    mint_client_secret(application_id=application, overlap=timedelta(minutes=5))
    soon = row.expires_at
    mint_client_secret(application_id=application, overlap=timedelta(days=30))
    assert soon is not None and row.expires_at == soon


def test_few_are_valid_at_once_and_a_rotation_without_overlap_always_works(application: str) -> None:
    for _ in range(MOST_CLIENT_SECRETS):
        mint_client_secret(application_id=application)
    with pytest.raises(Conflict, match="overlap of 0"):
        mint_client_secret(application_id=application)
    _, secret = mint_client_secret(application_id=application, overlap=timedelta(0))
    assert client_secrets(application) == [credentials.client_secret_digest(secret)]


@pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=31)])
def test_an_overlap_has_bounds(application: str, overlap: timedelta) -> None:
    with pytest.raises(ValidationFailed):
        mint_client_secret(application_id=application, overlap=overlap)


def test_forgotten_secrets_are_nobodys(application: str) -> None:
    _, secret = mint_client_secret(application_id=application)
    forget_client_secrets(application_id=application)
    assert not holds(secret, application)


def test_the_log_tells_of_a_secret_and_not_what_it_is(world: World) -> None:
    with acting(system("test")), unit(world.acme) as session:
        application = applications.create({"name": "Wiki", "type": "web"}).id
        row, secret = mint_client_secret(application_id=application)
        told = session.scalars(sa.select(Event).where(Event.name == "application.secret_created")).one()
        assert told.resource_id == application and told.changed == {"secret_id": row.id, "earlier": 0}
        assert secret not in str(told.changed)
        assert session.scalar(sa.select(sa.func.count()).select_from(ClientSecret)) == 1

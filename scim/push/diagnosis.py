"""Whether a target can be served: its credential, its token endpoint, its address, a search, and what it can do.

Owns the steps and what an administrator does when one fails. Nothing is changed, here or there: the target is asked
what it says of itself and whether it has somebody who does not exist. No transaction is open meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from flask import current_app

from broker.context import Scope
from broker.db import unit
from broker.models import ScimTarget
from broker.vault import VaultError
from connectors.port import Step
from scim.client import Closed, Denied, Forbidden, Refused, TargetClient, TargetError, Unsupported
from scim.profiles import Profile, of

from . import credential
from .run import http_client
from .standing import standing
from .work import Target, read_target

_NOBODY = "nobody-of-that-id"
_OWN_WORDS = "See what the target says of it; `scaikey push errors` has the deliveries that met it."


def examine(scope: Scope, target_id: str) -> Iterator[Step]:
    """The steps, up to the first that fails. Needs an app context and no open unit."""
    try:
        with unit(scope) as session:
            target = read_target(scope, target_id)
            shown = standing(session.get_one(ScimTarget, (scope.tenant_id, target_id)))
    except VaultError as error:
        yield Step("credential", False, str(error), "Give the target its credential again.")
        return
    if target is None:
        yield Step("status", True, "paused: nothing is sent")
        return
    yield from _asked(target)
    yield _stands(shown)


def _asked(target: Target) -> Iterator[Step]:
    http = http_client(cast(Any, current_app)._get_current_object(), target.tenant)
    ours = credential.of(http, target.auth, target.secret)
    client = TargetClient(http, target.base_url, ours, profile=target.profile)
    try:
        ours.token()
    except TargetError as error:
        yield Step("token", False, str(error), "Correct `auth`: the token endpoint, the client or its secret.")
        return
    yield Step("token", True, "there is one")
    try:
        said = client.discover()
    except TargetError as error:
        yield Step("address", False, str(error), _mend(error))
        return
    yield Step("address", True, f"{target.base_url} answers")
    try:
        client.find("User", "externalId", _NOBODY)
        found = "people can be searched"
    except (Refused, Unsupported):
        found = "people are not searched by externalId, but by their names"
    except TargetError as error:
        yield Step("search", False, str(error), _mend(error))
        return
    yield Step("search", True, found)
    yield Step("profile", True, f"{target.profile_name}: {_described(of(target.profile_name, said))}")


def _mend(error: TargetError) -> str:
    if isinstance(error, Denied | Forbidden):
        return "Give the target a credential that it accepts and that may read and write people and groups."
    if isinstance(error, Closed):
        return "Correct `base_url`, or allow the address in SCAIKEY_EGRESS_ALLOW."
    return _OWN_WORDS


def _described(profile: Profile) -> str:
    return ", ".join(
        [
            "PUT" if profile.put else "PATCH alone",
            f"{profile.bulk_operations} operations at once" if profile.bulk_operations else "no bulk",
            {"index": "pages by index", "cursor": "pages by cursor", "none": "no pages"}[profile.paging],
            "groups in groups" if profile.nested_groups else "people alone in groups",
        ]
    )


def _stands(shown: dict[str, Any]) -> Step:
    owed = shown["deliveries"]
    if shown["status"] == "quarantined":
        found = f"in quarantine, failing since {shown['failing_since']}: {shown['status_reason']}"
        return Step("deliveries", False, found, "Mend what it says; it is tried again by itself, or by resume.")
    counted = ", ".join(f"{many} {status}" for status, many in sorted(owed.items())) or "nothing"
    return Step("deliveries", True, f"owed: {counted}")

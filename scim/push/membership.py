"""Who is in a group at a receiver, for a comparison.

Owns which way it is asked: page by page where the receiver lists memberships as resources (the group-members draft),
however large the group; in one answer where it does not, or cannot tell the members of one group apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from scim.client import MEMBER, Missing, Overlong, Refused, Remote, TargetClient, Unsupported

MOST = 1_000_000
"""Members after which a listing is not believed to end."""


def pages(client: TargetClient, group_id: str) -> Iterator[list[str]]:
    """The remote ids of its members. Raises Overlong where they are too many, and TargetError in its other kinds."""
    if client.profile.lists_members:
        try:
            yield from _listed(client, group_id)
            return
        except (Missing, Refused, Unsupported):
            pass
    yield client.member_ids(group_id)


def _listed(client: TargetClient, group_id: str) -> Iterator[list[str]]:
    asked, position, met = f"group.value eq {orjson.dumps(group_id).decode()}", None, 0
    while True:
        listed, _, position = client.page(MEMBER, position, filter=asked)
        yield _members(listed, group_id)
        met += len(listed)
        if position is None:
            return
        if met > MOST:
            raise Overlong(f"GET /GroupMembers: more than {MOST} members of the group {group_id}")


def _members(listed: Sequence[Remote], group_id: str) -> list[str]:
    found = []
    for one in listed:
        group, member = (one.get(name) for name in ("group", "member"))
        if not isinstance(group, dict) or Remote("", group).get("value") != group_id:
            raise Refused("GET /GroupMembers: the target does not filter by group.value")
        value = Remote("", member).get("value") if isinstance(member, dict) else None
        if not isinstance(value, str):
            raise Refused("GET /GroupMembers: the target does not say who is a member")
        found.append(value)
    return found

"""Archives compared and spoiled: the form in which two are equal, and a seal for one that was changed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from broker import ids
from broker.context import Scope
from broker.db import platform_scope
from broker.models import Tenant
from scim.archive.lines import PARTS
from scim.archive.taking import IDS, renewed

_TOLD_BY_PROVIDER = frozenset({"provider_id", "via"})


def canonical(path: Path, *, into: str | None = None) -> list[bytes]:
    """The lines between header and trailer, sorted, with providers by name. `into`: with the ids that tenant gives."""
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()][1:-1]
    providers = {line["id"]: f"{line['kind']} {line['name']}" for line in lines if line["part"] == "provider"}
    found = []
    for line in lines:
        if line["part"] == "provider":
            line["id"] = providers[line["id"]]
        elif into is not None:
            line = {key: _moved(line, key, value, into) for key, value in line.items()}
        for name in _TOLD_BY_PROVIDER & line.keys():
            line[name] = line[name] and providers[line[name]]
        found.append(orjson.dumps(line, option=orjson.OPT_SORT_KEYS))
    return sorted(found)


def _moved(line: dict[str, Any], key: str, value: Any, into: str) -> Any:
    if line["part"] == "custom_attribute":
        return ids.renewed(value, into) if key == "id" else value
    named = key in IDS or key in ("document", "local", "pins") or (key == "member_key" and line["via"] is None)
    return renewed(value, into) if named else value


def reseal(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.write_bytes(sealed(lines))
    return path


def sealed(lines: Sequence[dict[str, Any]]) -> bytes:
    """An archive of these lines, with counts and a digest that fit them."""
    body = [line for line in lines if line["part"] != "trailer"]
    counted = Counter(line["part"] for line in body if isinstance(line["part"], str))
    counts = {part: counted[part] for part in PARTS}
    body[0] = {**body[0], "counts": counts}
    raw = b"".join(orjson.dumps(line) + b"\n" for line in body)
    end = {"part": "trailer", "counts": counts, "digest": hashlib.sha256(raw).hexdigest()}
    return raw + orjson.dumps(end) + b"\n"


def forget_tenant(scope: Scope) -> None:
    """As if this were another installation."""
    with platform_scope() as session:
        session.delete(session.get_one(Tenant, scope.tenant_id))

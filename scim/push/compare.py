"""What differs between a resource as it should be at a target and as the target shows it.

Owns the comparison of two documents, attribute by attribute, in words an administrator can read. What a receiver adds
of its own (ids, `$ref`, `display`, `meta`) is no difference, nor is what it does not show and we cannot know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.attributes import fold

from .render import MANAGED

_UNSHOWN = frozenset({"schemas", "externalId", "password", "members"})

Difference = dict[str, Any]
"""`{"expected": …, "found": …}`"""


def differences(wanted: Mapping[str, Any], shown: Mapping[str, Any], *, surplus: bool = True) -> dict[str, Difference]:
    """Attribute → what it should be and what it is. With `surplus`, also what we manage and should not be there."""
    there = {name.lower(): value for name, value in shown.items()}
    found: dict[str, Difference] = {}
    for name, value in wanted.items():
        is_there = there.get(name.lower())
        if name in _UNSHOWN and (name != "externalId" or is_there is None):
            continue
        if ":" in name and isinstance(value, Mapping):
            inner = differences(value, is_there if isinstance(is_there, Mapping) else {}, surplus=False)
            found.update((f"{name}:{key}", difference) for key, difference in inner.items())
        elif not _same(name, value, is_there):
            found[name] = {"expected": value, "found": is_there}
    if surplus:
        known = {name.lower() for name in wanted}
        for name in sorted(MANAGED):
            value = there.get(name.lower())
            if name.lower() not in known and value not in (None, [], {}, ""):
                found[name] = {"expected": None, "found": value}
    return found


def _same(name: str, wanted: Any, shown: Any) -> bool:
    if isinstance(wanted, Mapping):
        if not isinstance(shown, Mapping):
            # Some show a manager as his id alone.
            return "value" in wanted and wanted["value"] == shown
        there = {key.lower(): value for key, value in shown.items()}
        return all(_same(key, value, there.get(key.lower())) for key, value in wanted.items() if key != "$ref")
    if isinstance(wanted, list):
        if not isinstance(shown, list):
            return not wanted and shown is None
        return len(wanted) == len(shown) and all(any(_same(name, one, other) for other in shown) for one in wanted)
    if name == "userName" and isinstance(shown, str):
        return fold(str(wanted)) == fold(shown)
    if isinstance(wanted, bool) and isinstance(shown, str):
        return shown.lower() == str(wanted).lower()
    return bool(wanted == shown) or (wanted in ("", None) and shown in ("", None))

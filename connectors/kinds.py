"""The kinds of upstream there are, and their settings.

Owns the one table that names connectors, the validation of a stored configuration against a connector's `Config`,
and the description that API, form and documentation are made of.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, NamedTuple, get_origin, get_type_hints

from connectors import ldap
from connectors.port import ChangeFeed, Misconfigured


class Connector(NamedTuple):
    config: type[Any]
    reads_file: Callable[[str | os.PathLike[str], Any], ChangeFeed] | None = None
    """Makes the feed of an exported file, for kinds that have such."""


KINDS: Mapping[str, Connector] = {
    "ldap": Connector(ldap.Config, ldap.LdifDirectory),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a connector's configuration, as told to people and machines."""

    name: str
    type: str
    help: str
    required: bool
    default: Any
    secret: bool
    choices: tuple[str, ...]


def describe(kind: str) -> tuple[Setting, ...]:
    config = _connector(kind).config
    types = _types(config)
    return tuple(_setting(field, types[field.name]) for field in fields(config))


def config_from(kind: str, given: Mapping[str, Any]) -> Any:
    """The connector's `Config`. Raises Misconfigured with all wrong fields by name."""
    config = _connector(kind).config
    types = _types(config)
    wrong = {}
    known = {setting.name: setting for setting in describe(kind)}
    for name, value in given.items():
        if name not in known:
            wrong[name] = "There is no such setting."
        elif type(value) is not types[name]:
            wrong[name] = f"Has to be of type {known[name].type}."
        elif known[name].choices and value not in known[name].choices:
            wrong[name] = f"Has to be one of: {', '.join(known[name].choices)}."
    wrong |= {name: "Is required." for name, setting in known.items() if setting.required and name not in given}
    if wrong:
        raise Misconfigured("; ".join(f"{name}: {text}" for name, text in wrong.items()), wrong)
    return config(**given)


def file_feed(kind: str, config: Any, path: str | os.PathLike[str]) -> ChangeFeed:
    """The feed of an exported file. Raises Misconfigured for a kind that reads none."""
    reads = _connector(kind).reads_file
    if reads is None:
        raise Misconfigured(f"Providers of kind {kind} read no files.")
    return reads(path, config)


def _connector(kind: str) -> Connector:
    if kind not in KINDS:
        raise Misconfigured("There is no such kind of provider.", {"kind": "There is no such kind of provider."})
    return KINDS[kind]


def _types(config: type[Any]) -> dict[str, type]:
    return {name: get_origin(hint) or hint for name, hint in get_type_hints(config).items()}


def _setting(field: Field[Any], kind: type) -> Setting:
    default: Any = field.default_factory() if field.default_factory is not MISSING else field.default
    required = default is MISSING
    about = field.metadata
    return Setting(
        field.name,
        kind.__name__,
        about["help"],
        required,
        None if required else default,
        about["secret"],
        tuple(about["choices"]),
    )

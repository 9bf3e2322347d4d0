"""The kinds of upstream there are, their settings, and the making of a connector.

Owns the one table that names connectors, the validation of a stored configuration against a connector's `Config`,
and the description that API, form and documentation are made of.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from connectors import ldap, openid
from connectors.egress import Egress
from connectors.http import HttpClient
from connectors.port import ChangeFeed, Diagnose, Misconfigured, PasswordCheck, Shelf, SignIn


class Connector(NamedTuple):
    config: type[Any]
    reads_file: Callable[[str | os.PathLike[str], Any], ChangeFeed] | None = None
    """Makes the feed of an exported file, for kinds that have such."""
    signs_in: Callable[[Any, HttpClient, Shelf | None, str], SignIn] | None = None
    """Makes the connector people sign in through, for kinds that have such; the text is where they come back to."""
    connects: Callable[[Any, Egress], object | None] | None = None
    """Makes the connector that keeps a connection of its own to the upstream, for kinds that have such; None where the
    configuration names no live upstream. What it can do it says by the protocols it implements."""


KINDS: Mapping[str, Connector] = {
    "oidc": Connector(openid.Config, signs_in=openid.connect),
    "ldap": Connector(ldap.Config, ldap.LdifDirectory, connects=ldap.connect),
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
    confides: bool
    selects: bool


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
        elif not _is_a(value, types[name]):
            wrong[name] = f"Has to be of type {_named(types[name])}."
        elif (choices := known[name].choices) and not set(value if isinstance(value, list) else [value]) <= set(
            choices
        ):
            wrong[name] = f"Has to be one of: {', '.join(choice or 'nothing' for choice in choices)}."
    wrong |= {name: "Is required." for name, setting in known.items() if setting.required and name not in given}
    if wrong:
        raise Misconfigured("; ".join(f"{name}: {text}" for name, text in wrong.items()), wrong)
    return config(**given)


def reads_file(kind: str) -> bool:
    """Whether providers of this kind are read from an exported file."""
    return _connector(kind).reads_file is not None


def file_feed(kind: str, config: Any, path: str | os.PathLike[str]) -> ChangeFeed:
    """The feed of an exported file. Raises Misconfigured for a kind that reads none."""
    reads = _connector(kind).reads_file
    if reads is None:
        raise Misconfigured(f"Providers of kind {kind} read no files.")
    return reads(path, config)


def live_feed(kind: str, config: Any, egress: Egress) -> ChangeFeed | None:
    """The feed of a live upstream; None where everybody is read from files, or nobody can be asked for."""
    made = _connected(kind, config, egress)
    return made if isinstance(made, ChangeFeed) else None


def is_live(kind: str, config: Any) -> bool:
    """Whether such a provider can be read at any time, without anybody bringing a file."""
    return live_feed(kind, config, Egress()) is not None


def password_check(kind: str, config: Any, egress: Egress) -> PasswordCheck | None:
    """What checks passwords at this provider; None where nothing does."""
    made = _connected(kind, config, egress)
    return made if isinstance(made, PasswordCheck) else None


def checks_passwords(kind: str, config: Any) -> bool:
    """Whether people can sign in here with the password they have at such a provider."""
    return password_check(kind, config, Egress()) is not None


def signs_in(kind: str) -> bool:
    """Whether people leave for providers of this kind to sign in there."""
    return _connector(kind).signs_in is not None


def sign_in(kind: str, config: Any, http: HttpClient, shelf: Shelf | None = None) -> SignIn | None:
    """The connector that people of this provider sign in through; None for a kind that has no such."""
    makes = _connector(kind).signs_in
    return None if makes is None else makes(config, http, shelf, "")


def diagnose(
    kind: str,
    config: Any,
    http: HttpClient,
    shelf: Shelf | None = None,
    callback: str = "",
    *,
    egress: Egress | None = None,
) -> Diagnose | None:
    """What explains why this provider does not work; None for a kind that cannot be asked."""
    makes = _connector(kind).signs_in
    made = _connected(kind, config, egress or Egress()) if makes is None else makes(config, http, shelf, callback)
    return made if isinstance(made, Diagnose) else None


def _connected(kind: str, config: Any, egress: Egress) -> object | None:
    makes = _connector(kind).connects
    return None if makes is None else makes(config, egress)


def _connector(kind: str) -> Connector:
    if kind not in KINDS:
        raise Misconfigured("There is no such kind of provider.", {"kind": "There is no such kind of provider."})
    return KINDS[kind]


def _types(config: type[Any]) -> dict[str, Any]:
    return get_type_hints(config)


def _is_a(value: Any, hint: Any) -> bool:
    kind = get_origin(hint) or hint
    if type(value) is not kind:
        return False
    if kind is list:
        return all(_is_a(item, get_args(hint)[0]) for item in value)
    if kind is dict:
        return all(_is_a(item, get_args(hint)[1]) for item in value.values())
    return True


def _named(hint: Any) -> str:
    kind = (get_origin(hint) or hint).__name__
    return f"{kind} of {get_args(hint)[-1].__name__}" if get_args(hint) else str(kind)


def _setting(field: Field[Any], hint: Any) -> Setting:
    default: Any = field.default_factory() if field.default_factory is not MISSING else field.default
    required = default is MISSING
    about = field.metadata
    return Setting(
        field.name,
        (get_origin(hint) or hint).__name__,
        about["help"],
        required,
        None if required else default,
        about["secret"],
        tuple(about["choices"]),
        about["confides"],
        about["selects"],
    )

"""The kinds of upstream, their settings as data, and what a wrong configuration is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from connectors import kinds, ldap
from connectors.egress import Egress
from connectors.port import ChangeFeed, Misconfigured, setting


def test_a_configuration_is_made_from_a_mapping() -> None:
    assert kinds.config_from("ldap", {}) == ldap.Config(source="ldif", base_dn="")
    assert kinds.config_from("ldap", {"base_dn": "DC=acme"}) == ldap.Config(base_dn="DC=acme")


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"base_dm": "DC=acme"}, {"base_dm"}),
        ({"base_dn": 5}, {"base_dn"}),
        ({"base_dn": None, "source": True}, {"base_dn", "source"}),
        ({"source": "live"}, {"source"}),
        ({"base_dn": "acme"}, {"base_dn"}),
    ],
)
def test_every_wrong_field_is_named(given: dict[str, Any], fields: set[str]) -> None:
    with pytest.raises(Misconfigured) as caught:
        kinds.config_from("ldap", given)
    assert set(caught.value.fields) == fields


def test_an_unknown_kind_is_a_misconfiguration() -> None:
    for ask in (lambda: kinds.config_from("okta", {}), lambda: kinds.describe("okta")):
        with pytest.raises(Misconfigured) as caught:
            ask()
        assert set(caught.value.fields) == {"kind"}


def test_settings_are_described() -> None:
    source, base_dn, *live = kinds.describe("ldap")
    assert (source.name, source.type, source.default, source.choices) == ("source", "str", "ldif", ("ldif", "ldap"))
    assert (base_dn.name, base_dn.required, base_dn.secret, base_dn.default) == ("base_dn", False, False, "")
    assert "naming context" in base_dn.help
    assert [setting.name for setting in live if setting.secret] == ["bind_password"]
    assert [setting.name for setting in live if setting.confides] == ["servers", "ca_certificates"]
    selecting = ["source", "base_dn", "base_dns", "user_filter", "member_of"]
    assert [setting.name for setting in kinds.describe("ldap") if setting.selects] == selecting


@dataclass(frozen=True)
class Sample:
    password: str = setting("A password.", secret=True)
    bases: list[str] = setting("Some bases.", default=[])  # noqa: RUF009 (a field, not a shared list)
    colours: list[str] = setting("Colours.", default=["red"], choices=("red", "blue"))  # noqa: RUF009
    names: dict[str, str] = setting("Names.", default={})  # noqa: RUF009
    wanted: bool = setting("Whether.", default=False)


def test_required_secret_and_listed_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "KINDS", {"test": kinds.Connector(Sample)})
    password, bases, *_ = kinds.describe("test")
    assert (password.required, password.secret, password.default) == (True, True, None)
    assert (bases.type, bases.required, bases.default) == ("list", False, [])
    with pytest.raises(Misconfigured, match="password: Is required"):
        kinds.config_from("test", {})
    assert kinds.config_from("test", {"password": "p", "bases": ["DC=x"]}) == Sample("p", ["DC=x"])
    assert kinds.config_from("test", {"password": "p"}).bases == []
    with pytest.raises(Misconfigured, match="no files"):
        kinds.file_feed("test", None, "x")


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ({"bases": ["a", 5]}, {"bases": ["a", "b"]}),
        ({"bases": "a"}, {"bases": []}),
        ({"colours": ["red", "green"]}, {"colours": ["blue", "red"]}),
        ({"names": {"a": 5}}, {"names": {"a": "b"}}),
        ({"names": []}, {"names": {}}),
        ({"wanted": 1}, {"wanted": True}),
    ],
)
def test_what_is_inside_a_setting_is_checked_too(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], right: dict[str, Any]
) -> None:
    monkeypatch.setattr(kinds, "KINDS", {"test": kinds.Connector(Sample)})
    assert kinds.config_from("test", {"password": "p", **right})
    with pytest.raises(Misconfigured) as caught:
        kinds.config_from("test", {"password": "p", **given})
    assert set(caught.value.fields) == set(given)


def test_kinds_say_what_can_be_done_with_them() -> None:
    assert [kinds.signs_in(kind) for kind in ("oidc", "ldap")] == [True, False]
    assert [kinds.reads_file(kind) for kind in ("oidc", "ldap")] == [False, True]


def test_a_directory_is_connected_to_only_where_its_source_is_live() -> None:
    assert kinds.live_feed("ldap", kinds.config_from("ldap", {}), Egress()) is None
    live = {"source": "ldap", "servers": ["ldaps://dc1.acme.test"], "bind_dn": "reader@acme.test", "bind_password": "p"}
    assert isinstance(kinds.live_feed("ldap", kinds.config_from("ldap", live), Egress()), ChangeFeed)


def test_a_file_feed_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "export.ldif"
    path.write_bytes(b"")
    feed = kinds.file_feed("ldap", kinds.config_from("ldap", {}), path)
    assert isinstance(feed, ChangeFeed)
    assert [page.last for page in feed.changes_since(None)] == [True]

"""The API's description: valid, complete, made from the routes, and readable without another host or a script."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator

from broker import doors
from tests.casting import PREFIX, Cast


def document(cast: Cast) -> dict[str, Any]:
    answer = cast.nobody.get("/openapi.json")
    assert answer.status_code == 200 and answer.mimetype == "application/json"
    said: dict[str, Any] = answer.get_json()
    return said


def test_the_description_is_valid_openapi(cast: Cast) -> None:
    said = document(cast)
    assert said["openapi"] == "3.1.0"
    assert list(OpenAPIV31SpecValidator(said).iter_errors()) == []


def test_every_announced_route_is_described_and_no_other(cast: Cast, web: Flask) -> None:
    said = {
        (re.sub(r"\{[a-z_]+\}", "{}", path), method.upper())
        for path, methods in document(cast)["paths"].items()
        for method in methods
    }
    announced = {
        (re.sub(r"<[^>]+>", "{}", route.rule), method)
        for route in doors.routes(web)
        if route.deed.about.announced and "<chosen_tenant>" not in route.rule
        for method in route.methods
    }
    assert said == announced
    assert (f"{PREFIX}/tenants/{{}}/settings", "PATCH") in said
    assert any(path.startswith("/scim/v2/") for path, _ in said)
    assert not any("trust-rules" in path or "/auth/exchange" in path for path, _ in said)
    assert (f"{PREFIX}/auth/whoami", "GET") in said and (f"{PREFIX}/auth/introspect", "POST") in said


def test_shapes_tell_required_read_only_and_choices(cast: Cast) -> None:
    shapes = document(cast)["components"]["schemas"]
    application = shapes["Application"]
    written = {name for name, field in application["properties"].items() if not field.get("readOnly")}
    assert set(application["required"]) & written == {"name", "type"}
    assert application["properties"]["id"]["readOnly"]
    assert application["properties"]["type"]["enum"] == ["web", "spa", "native", "service", "mcp"]
    assert application["properties"]["enabled"]["type"] == "boolean"
    assert "required" not in shapes["ApplicationChange"]
    for name, shape in shapes.items():
        assert not {"digest", "secrets"} & set(shape.get("properties", ())), name


def test_every_operation_says_what_it_does(cast: Cast) -> None:
    operations = [one for methods in document(cast)["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for one in operations:
        assert one["summary"].endswith("."), one["operationId"]


class Addresses(HTMLParser):
    """Everything a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "link"):
            self.loaded.append(said.get("src") or said.get("href") or "")
        self.inline += [name for name in said if name == "style" or name.startswith("on")]


def test_the_reference_loads_nothing_from_elsewhere_and_runs_nothing(cast: Cast) -> None:
    page = cast.client.get("/docs")
    assert page.status_code == 200 and page.mimetype == "text/html"
    policy = page.headers["Content-Security-Policy"]
    assert "script-src" not in policy and "default-src 'none'" in policy and "style-src 'self'" in policy
    found = Addresses()
    found.feed(page.get_data(as_text=True))
    assert found.inline == []
    [style, icon] = found.loaded
    assert icon == "data:,"
    sheet = cast.client.get(style)
    assert sheet.status_code == 200 and sheet.mimetype == "text/css" and "immutable" in sheet.headers["Cache-Control"]
    assert "url(" not in sheet.get_data(as_text=True) and "@import" not in sheet.get_data(as_text=True)
    assert cast.client.get("/static/000000000000/style.css").status_code == 404


def test_the_reference_shows_every_operation(cast: Cast) -> None:
    page = cast.client.get("/docs").get_data(as_text=True)
    for methods in document(cast)["paths"].values():
        for one in methods.values():
            assert f'id="{one["operationId"]}"' in page

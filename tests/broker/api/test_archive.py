"""An archive over HTTP: given out whole, taken in, and its imports shown with what they refused."""

from __future__ import annotations

import orjson
from werkzeug.test import TestResponse

from broker.api import archive
from tests.casting import Caller, Cast, code, make_token, make_user

LINES = "application/x-ndjson"


def given_out(caller: Caller) -> bytes:
    response = caller.get("/archive")
    assert (response.status_code, response.mimetype) == (200, LINES)
    assert response.content_length == len(response.data)
    return response.data


def take_in(caller: Caller, content: bytes, query: str = "", kind: str = LINES) -> TestResponse:
    return caller.ask("POST", f"/archive{query}", data=content, content_type=kind)


def test_a_tenant_is_given_out_and_taken_in_elsewhere(cast: Cast) -> None:
    with cast.client.application.app_context():
        make_user(cast.acme)
    content = given_out(cast.acme_admin)
    lines = [orjson.loads(line) for line in content.splitlines()]
    assert lines[0]["tenant"] == {"id": cast.acme.tenant_id, "slug": cast.acme.slug}
    assert lines[-1]["counts"]["resource"] > 1
    dry = take_in(cast.globex_admin, content, "?dry_run=true").get_json()
    assert (dry["status"], dry["dry_run"], dry["line"]) == ("done", True, dry["total"])
    run = take_in(cast.globex_admin, content).get_json()
    assert (run["created"], run["unchanged"], run["refused"]) == (dry["created"], dry["unchanged"], dry["refused"])
    shown = cast.globex_admin.get(f"/archive-runs/{run['id']}")
    assert shown.get_json() == run
    listed = cast.globex_admin.get("/archive-runs").get_json()["items"]
    assert [one["id"] for one in listed] == [run["id"], dry["id"]]
    assert take_in(cast.globex_admin, content).get_json()["created"] == 0
    assert code(cast.acme_admin.get(f"/archive-runs/{run['id']}")) == (404, "not_found")


def test_what_was_refused_is_listed_with_its_place(cast: Cast) -> None:
    with cast.client.application.app_context():
        make_user(cast.acme, "twin")
        make_user(cast.globex, "twin")
    run = take_in(cast.globex_admin, given_out(cast.acme_admin)).get_json()
    refused = cast.globex_admin.get(f"/archive-runs/{run['id']}/refused").get_json()["items"]
    assert {"path": "/name", "detail": "This userName is somebody else's."} in [
        {name: one[name] for name in ("path", "detail")} for one in refused
    ]
    assert run["refused"] == len(refused)


def test_bad_input_is_named(cast: Cast) -> None:
    content = given_out(cast.acme_admin)
    broken = take_in(cast.globex_admin, content[:-5])
    assert code(broken) == (422, "validation_failed")
    [(place, [detail])] = broken.get_json()["errors"].items()
    assert place.startswith("line ") and "not whole" in detail
    assert code(take_in(cast.globex_admin, b"")) == (422, "validation_failed")
    assert code(take_in(cast.globex_admin, content, kind="application/json")) == (415, "unsupported_media_type")
    assert code(take_in(cast.globex_admin, content, "?dry_run=perhaps")) == (422, "validation_failed")
    packed = cast.globex_admin.ask(
        "POST", "/archive", data=content, content_type=LINES, headers={"Content-Encoding": "gzip"}
    )
    assert code(packed) == (415, "unsupported_media_type")
    assert cast.globex_admin.get("/archive-runs").get_json()["items"] == []


def test_who_administers_nothing_and_who_shows_a_narrow_token_get_no_archive(cast: Cast) -> None:
    assert code(cast.person.get("/archive")) == (404, "not_found")
    with cast.client.application.app_context():
        narrow = make_token(cast.acme, cast.acme_admin.user_id, scopes=["scaikey:read", "scaikey:write"])
    caller = Caller(cast.client, token=narrow)
    assert code(caller.get("/archive")) == (403, "access_denied")
    assert code(take_in(caller, b"")) == (403, "access_denied")


def test_a_body_may_be_larger_than_other_requests_and_has_an_end(cast: Cast) -> None:
    assert code(take_in(cast.acme_admin, b"[" * 300 * 1024)) == (422, "validation_failed")
    said = {"CONTENT_LENGTH": str(archive.LARGEST + 1)}
    refused = cast.acme_admin.ask("POST", "/archive", data=b"x", content_type=LINES, environ_overrides=said)
    assert code(refused) == (413, "payload_too_large")

"""What every request of the admin API meets: its id, its headers, its body, its context, its pages."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy as sa
from werkzeug.test import TestResponse

from broker import doors, ids
from broker.errors import BadRequest, Conflict, Problem, ServiceUnavailable
from tests.casting import PREFIX, Cast, code


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/nowhere", f"{PREFIX}/partners", f"{PREFIX}/nowhere"])
def test_every_answer_has_an_id_and_closed_headers(cast: Cast, path: str) -> None:
    answer = cast.client.get(path)
    assert len(answer.headers.getlist("X-Request-ID")) == 1 and len(answer.headers["X-Request-ID"]) == 32
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(("sent", "kept"), [("abc-123", True), ("x" * 128, True), ("x" * 129, False), ("é", False)])
def test_a_printable_request_id_is_taken_over(cast: Cast, sent: str, kept: bool) -> None:
    answer = cast.nobody.get("/partners", headers={"X-Request-ID": sent.encode().decode("latin-1")})
    assert (answer.headers["X-Request-ID"] == sent) is kept
    assert answer.get_json()["request_id"] == answer.headers["X-Request-ID"]


def test_unknown_addresses_speak_the_language_of_their_door(cast: Cast) -> None:
    assert code(cast.nobody.get("/nothing/here")) == (404, "not_found")
    assert cast.client.get("/api/v9/x").mimetype == "application/problem+json"
    assert cast.client.get("/scim/v2/acme/nothing/here/at/all").mimetype == "application/scim+json"
    assert cast.client.get("/nothing").mimetype == "text/html"
    wrong = cast.nobody.ask("PUT", "/partners")
    assert code(wrong) == (405, "method_not_allowed") and wrong.headers["Allow"] == "GET, HEAD, POST"
    assert code(cast.nobody.ask("OPTIONS", "/partners")) == (405, "method_not_allowed")
    assert code(cast.nobody.get("/partners/")) == (404, "not_found")
    assert code(cast.nobody.get("//partners")) == (404, "not_found")


def raw(cast: Cast, data: bytes, kind: str = "application/json", **headers: str) -> TestResponse:
    sent = {"Authorization": f"Bearer {cast.super_admin.token}", "Content-Type": kind, **headers}
    return cast.client.post(f"{PREFIX}/partners", data=data, headers=sent)


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b'"text"',
        b'{"name": "a", "name": "b"}',
        b'{"name": NaN}',
        b'{"name": 1e999}',
        b'{"name": "nul\\u0000"}',
        b'{"name": "\\ud800"}',
        b'{"name": "\xff"}',
        b"[" * 5_000,
        b'{"a":' * 30 + b"1" + b"}" * 30,
    ],
)
def test_json_is_read_strictly(cast: Cast, data: bytes) -> None:
    assert code(raw(cast, data)) == (400, "bad_request")


def test_bodies_of_other_kinds_and_sizes_are_refused(cast: Cast) -> None:
    assert code(raw(cast, b"{}", "text/plain")) == (415, "unsupported_media_type")
    assert code(raw(cast, b"{}", "application/json; charset=latin-1")) == (415, "unsupported_media_type")
    assert code(raw(cast, b"{}", **{"Content-Encoding": "gzip"})) == (415, "unsupported_media_type")
    assert code(raw(cast, b" " * (256 * 1024 + 1))) == (413, "payload_too_large")
    assert code(raw(cast, b" " * (256 * 1024 - 2) + b"{}")) == (422, "validation_failed")


@pytest.mark.parametrize("id", ["nul%00byte", "%ff", "x" * 5_000, "a%20b", "'--"])
def test_an_odd_id_is_nothing_or_a_bad_request_but_never_a_failure(cast: Cast, id: str) -> None:
    for path in (f"/partners/{id}", f"/tenants/{id}", f"/t/{cast.acme.tenant_id}/applications/{id}"):
        assert cast.super_admin.get(path).status_code in (400, 404), path
    assert cast.super_admin.get(f"/tenants?slug={id}").status_code in (200, 400)
    assert cast.super_admin.get("/applications", headers={"X-Tenant-ID": "no such"}).status_code == 404


def test_another_name_of_this_host_is_refused_but_for_probes(cast: Cast) -> None:
    assert code(cast.nobody.get("/partners", headers={"Host": "evil.example"})) == (400, "bad_request")
    assert cast.client.get("/healthz", headers={"Host": "10.0.0.7:8080"}).status_code == 200
    assert cast.client.get("/docs", headers={"Host": "127.0.0.1:9999"}).status_code == 200


def test_readiness_names_what_is_missing(cast: Cast) -> None:
    answer = cast.client.get("/readyz")
    assert answer.status_code == 200
    assert answer.get_json()["checks"] == {"database": "ok", "valkey": "ok", "migrations": "ok"}
    assert cast.client.get("/metrics").status_code == 404


def test_an_administrator_of_a_tenant_acts_in_it_and_names_no_other(cast: Cast) -> None:
    assert cast.acme_admin.get("/applications").status_code == 200
    assert cast.acme_admin.at(cast.acme).get("/applications").status_code == 200
    assert cast.acme_admin.get(f"/t/{cast.acme.tenant_id}/applications").status_code == 200
    assert code(cast.acme_admin.at(cast.globex).get("/applications")) == (400, "context_conflict")
    assert code(cast.acme_admin.at("tnt_none").get("/applications")) == (400, "context_conflict")
    assert code(cast.acme_admin.get(f"/t/{cast.globex.tenant_id}/applications")) == (400, "context_conflict")


@pytest.mark.parametrize("who", ["partner_admin", "super_admin"])
def test_admins_from_above_choose_the_tenant(cast: Cast, who: str) -> None:
    caller = getattr(cast, who)
    assert code(caller.get("/applications")) == (400, "context_required")
    assert caller.at(cast.acme).get("/applications").status_code == 200
    assert caller.get(f"/t/{cast.acme.tenant_id}/applications").status_code == 200
    agreeing = caller.at(cast.acme).get(f"/t/{cast.acme.tenant_id}/applications")
    assert agreeing.status_code == 200
    disagreeing = caller.at(cast.globex).get(f"/t/{cast.acme.tenant_id}/applications")
    assert code(disagreeing) == (400, "context_conflict")
    settings = f"/tenants/{cast.acme.tenant_id}/settings"
    assert code(caller.at(cast.globex).get(settings)) == (400, "context_conflict")
    assert caller.at(cast.acme).get(settings).status_code == 200
    assert code(caller.at(ids.new("tnt")).get("/applications")) == (404, "not_found")


def test_the_partner_header_has_to_fit_the_tenant(cast: Cast) -> None:
    acme, right, wrong = cast.super_admin.at(cast.acme), cast.world.partner_id, cast.platform.partner_id
    assert acme.get("/applications", headers={"X-Partner-ID": right}).status_code == 200
    assert code(acme.get("/applications", headers={"X-Partner-ID": wrong})) == (400, "context_conflict")
    assert code(cast.acme_admin.get("/applications", headers={"X-Partner-ID": str(wrong)})) == (400, "context_conflict")
    path = f"/partners/{right}"
    assert code(cast.super_admin.get(path, headers={"X-Partner-ID": wrong})) == (400, "context_conflict")
    assert code(cast.super_admin.at(cast.platform).get(path)) == (400, "context_conflict")
    assert cast.super_admin.at(cast.acme).get(path).status_code == 200


def test_a_partner_admin_cannot_choose_another_partners_tenant_or_the_platform(cast: Cast) -> None:
    assert code(cast.partner_admin.at(cast.platform).get("/applications")) == (404, "not_found")
    assert code(cast.partner_admin.get(f"/t/{cast.platform.tenant_id}/events")) == (404, "not_found")
    assert code(cast.partner_admin.get("/platform/settings")) == (404, "not_found")


def test_a_scope_the_credential_lacks_is_refused_and_its_twin_passes(cast: Cast) -> None:
    admin = cast.acme_admin.user_id
    reader = cast.caller(admin, cast.acme, scopes=["scaikey:read"])
    writer = cast.caller(admin, cast.acme, scopes=["scaikey:write"])
    provisioner = cast.caller(admin, cast.acme, scopes=["scim"])
    body = {"name": "Wiki", "type": "web"}
    assert reader.get("/applications").status_code == 200
    assert code(reader.post("/applications", body)) == (403, "access_denied")
    assert writer.get("/applications").status_code == 200 and writer.post("/applications", body).status_code == 201
    assert code(provisioner.get("/applications")) == (403, "access_denied")
    foreign = cast.caller(admin, cast.acme, audiences=["billing"])
    assert code(foreign.get("/applications")) == (401, "authentication_required")
    basic = cast.nobody.get("/applications", headers={"Authorization": "Basic YTpi"})
    assert code(basic) == (401, "authentication_required")


def test_lists_are_complete_in_order_and_without_repeats(cast: Cast) -> None:
    made = [cast.acme_admin.post("/domains", {"name": f"d{n}.example"}).get_json()["id"] for n in range(7)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = cast.acme_admin.get(f"/domains?limit=3{cursor}").get_json()
        assert set(page) == {"items", "next_cursor"} and len(page["items"]) <= 3
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == sorted(made)
    assert len(cast.acme_admin.get("/domains?limit=1000").get_json()["items"]) == 7


@pytest.mark.parametrize(
    ("query", "refusal"),
    [
        ("limit=0", (422, "validation_failed")),
        ("limit=-1", (422, "validation_failed")),
        ("limit=ten", (422, "validation_failed")),
        ("limit=\u0665", (422, "validation_failed")),
        ("cursor=%%%", (400, "bad_request")),
        ("cursor=e30", (400, "bad_request")),
        ("cursor=WzFd", (400, "bad_request")),
        ("cursor=WyJhIiwiYiJd", (400, "bad_request")),
        ("nmae=x", (400, "bad_request")),
    ],
)
def test_a_wrong_question_is_refused(cast: Cast, query: str, refusal: tuple[int, str]) -> None:
    assert code(cast.acme_admin.get(f"/domains?{query}")) == refusal


def test_what_comes_later_says_so(cast: Cast) -> None:
    for path in ("/trust-rules", "/auth/exchange", "/agents/agt_x/credentials", "/users/usr_x/credentials"):
        assert code(cast.nobody.get(path)) == (501, "not_implemented")
    assert code(cast.nobody.post("/trust-rules/x/explain", {})) == (501, "not_implemented")


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (psycopg.OperationalError("gone"), ServiceUnavailable),
        (psycopg.errors.QueryCanceled("too long"), ServiceUnavailable),
        (psycopg.errors.LockNotAvailable("locked"), ServiceUnavailable),
        (psycopg.DataError("NUL"), BadRequest),
        (psycopg.errors.UniqueViolation("twice"), Conflict),
        (psycopg.errors.CheckViolation("secret detail"), Problem),
    ],
)
def test_what_the_database_refuses_is_told_without_its_words(cause: Exception, kind: type[Problem]) -> None:
    problem = doors.problem_of(sa.exc.DBAPIError("SELECT", {}, cause))
    assert type(problem) is kind and str(cause) not in problem.detail


def test_an_unforeseen_failure_says_nothing_but_its_id(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr("broker.registry.domains.create", fail)
    answer = cast.acme_admin.post("/domains", {"name": "a.example"})
    assert code(answer) == (500, "internal_error") and "the secret" not in answer.get_data(as_text=True)


def test_a_deadlock_is_tried_again(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    from broker.registry import domains

    real, attempts = domains.create, []

    def flaky(name: str) -> object:
        attempts.append(name)
        if len(attempts) < 3:
            raise sa.exc.OperationalError("UPDATE", {}, psycopg.errors.DeadlockDetected("deadlock"))
        return real(name)

    monkeypatch.setattr("broker.registry.domains.create", flaky)
    assert cast.acme_admin.post("/domains", {"name": "a.example"}).status_code == 201
    assert len(attempts) == 3

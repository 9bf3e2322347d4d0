"""The SCIM client against a receiver that misbehaves: what it asks, what it believes, and what it says went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import orjson
import pytest

from broker.attributes import CUSTOM, ENTERPRISE
from connectors.egress import Egress
from connectors.http import HttpClient
from scim.client import (
    Busy,
    Clash,
    Closed,
    Denied,
    Forbidden,
    Missing,
    Refused,
    TargetClient,
    TargetError,
    Troubled,
    Unreachable,
    Unsupported,
)
from tests.receivers import TOKEN, Answer, Receiver, faulty_receiver

ALICE = {"schemas": [], "userName": "alice@acme.example", "externalId": "usr_1", "active": True}
HTML = Answer(200, b"<html>Sign in</html>", {"Content-Type": "text/html"})


@pytest.fixture(scope="module")
def serving() -> Iterator[Receiver]:
    with faulty_receiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(serving: Receiver) -> Receiver:
    serving.stored.update(Users={}, Groups={})
    serving.asked.clear()
    serving.faults.clear()
    return serving


@pytest.fixture(scope="module")
def http() -> Iterator[HttpClient]:
    client = HttpClient(Egress(loopback=True))
    yield client
    client.close()


@pytest.fixture
def client(receiver: Receiver, http: HttpClient) -> TargetClient:
    return TargetClient(http, receiver.base_url + "/", TOKEN, timeout=1.0)


def test_a_person_is_made_found_changed_and_removed(client: TargetClient, receiver: Receiver) -> None:
    made = client.create("User", ALICE)
    assert [one.id for one in client.find("User", "externalId", "usr_1")] == [made]
    assert [one.id for one in client.find("User", "userName", "ALICE@acme.example")] == [made]
    client.replace("User", made, {**ALICE, "title": "Chief"})
    client.patch("User", made, [{"op": "replace", "path": "active", "value": False}])
    shown = client.read("User", made)
    assert (shown.get("title"), shown.get("ACTIVE")) == ("Chief", False)
    client.remove("User", made)
    client.remove("User", made)
    assert client.find("User", "externalId", "usr_1") == []
    assert receiver.requests("PUT")[0].body["id"] == made


def test_a_quote_in_a_name_stays_inside_the_filter(client: TargetClient, receiver: Receiver) -> None:
    client.find("User", "userName", 'a" or userName pr or "b')
    assert receiver.asked[0].query["filter"] == 'userName eq "a\\" or userName pr or \\"b"'


def test_nobody_is_found_where_a_search_answers_404(client: TargetClient, receiver: Receiver) -> None:
    receiver.fault("GET", "/Users", Answer(404))
    assert client.find("User", "userName", "alice") == []


def test_a_receiver_that_ignores_the_filter_is_not_believed(client: TargetClient, receiver: Receiver) -> None:
    receiver.fault("GET", "/Users", Answer(200, {"totalResults": 1, "Resources": [{"id": "1", "userName": "bob"}]}))
    with pytest.raises(Refused, match="does not filter by userName"):
        client.find("User", "userName", "alice")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, Closed),
        (400, Refused),
        (401, Denied),
        (403, Forbidden),
        (404, Missing),
        (405, Unsupported),
        (409, Clash),
        (413, Refused),
        (429, Busy),
        (500, Troubled),
        (501, Unsupported),
        (502, Busy),
        (503, Busy),
        (507, Troubled),
    ],
)
def test_every_status_has_its_kind(
    client: TargetClient, receiver: Receiver, status: int, kind: type[TargetError]
) -> None:
    receiver.fault("PUT", "/Users/1", Answer(status, {"detail": "no"}, {"Location": "http://127.0.0.1:1/"}))
    with pytest.raises(kind, match=f"^PUT /Users/1 answered {status}: no$") as raised:
        client.replace("User", "1", ALICE)
    assert raised.value.told is not None and raised.value.told["answer"]["status"] == status
    assert len(receiver.asked) == 1


def test_the_time_the_receiver_asks_for_is_kept(client: TargetClient, receiver: Receiver) -> None:
    receiver.fault("POST", "/Users", Answer(429, headers={"Retry-After": "17"}))
    with pytest.raises(Busy) as raised:
        client.create("User", ALICE)
    assert raised.value.retry_after == 17


def test_a_problem_says_the_scim_detail_cut_and_without_our_token(client: TargetClient, receiver: Receiver) -> None:
    detail = f"no\r\n {TOKEN} " + "x" * 1000
    receiver.fault("POST", "/Users", Answer(400, {"scimType": "invalidValue", "detail": detail}))
    with pytest.raises(Refused) as raised:
        client.create("User", ALICE)
    text = str(raised.value)
    assert text.startswith("POST /Users answered 400: invalidValue - no   *** xxx")
    assert len(text) < 350


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ("userName ALICE@acme.example already exists", "userName *** already exists"),
        ("Al Bo (alice@acme.example) clashes with bob@other.example", "*** (***) clashes with ***"),
        (
            "mailbox smtp:x-alice@acme.example-7 is taken by Alice_Bo, not Ali",
            "mailbox smtp:*** is taken by Alice_***, not Ali",
        ),
        ("Ümit", "***"),
        ("value 1234567 of employeeNumber is not unique", "value *** of employeeNumber is not unique"),
        ("emails.type work of usr_1 at r9 is required, true", "emails.type work of usr_1 at r9 is required, true"),
    ],
)
def test_what_we_sent_is_not_repeated_in_the_words_of_a_problem(
    client: TargetClient, receiver: Receiver, detail: str, shown: str
) -> None:
    name = {"formatted": "Al Bo", "familyName": "Bo", "givenName": "Al", "middleName": "ümit"}
    person = {**ALICE, "name": name, "emails": [{"value": "alice@acme.example", "type": "work"}], "title": 'The "One"'}
    extension = {ENTERPRISE: {"employeeNumber": 1234567}, CUSTOM["User"]: {"town": ["Cologne"]}}
    receiver.fault("POST", "/Users", Answer(409, {"scimType": "uniqueness", "detail": detail}))
    with pytest.raises(Clash) as raised:
        client.create("User", {**person, **extension})
    assert str(raised.value) == f"POST /Users answered 409: uniqueness - {shown}"
    assert raised.value.told is not None
    assert raised.value.told["answer"]["body"] == {"scimType": "uniqueness", "detail": shown}


@pytest.mark.parametrize("before", [0, 8, 290, 296, 299])
def test_no_part_of_what_we_sent_is_told_where_words_are_cut(
    client: TargetClient, receiver: Receiver, before: int
) -> None:
    detail = "." * before + "Cologne " * 75
    receiver.fault("POST", "/Users", Answer(409, {"detail": detail}))
    with pytest.raises(Clash) as raised:
        client.create("User", {**ALICE, "title": "Cologne"})
    assert raised.value.told is not None
    told = raised.value.told["answer"]["body"]["detail"]
    assert 0 < len(told) <= 300 and set(told) <= set(". *") and told.startswith("." * before)
    assert set(str(raised.value).partition("409")[2]) <= set(": .*")


def test_what_a_patch_or_a_search_named_is_not_repeated_either(client: TargetClient, receiver: Receiver) -> None:
    receiver.fault("PATCH", "/Users/r1", Answer(400, {"detail": "Jane Roe and r7 are no match"}))
    operations = [
        {"op": "replace", "path": "name.formatted", "value": "Jane Roe"},
        {"op": "add", "path": "manager", "value": {"value": "r7"}},
    ]
    with pytest.raises(Refused, match=r"answered 400: \*\*\* and r7 are no match$"):
        client.patch("User", "r1", operations)
    receiver.fault("GET", "/Users", Answer(400, {"detail": "no route for userName%20eq%20%22Jane%20Roe%40x.test%22"}))
    with pytest.raises(Refused, match=r"answered 400: no route for \*\*\*$"):
        client.find("User", "userName", "Jane Roe@x.test")
    receiver.fault("GET", "/Users", Answer(400, {"detail": 'too odd: Jane "J" Roe'}))
    with pytest.raises(Refused, match=r"answered 400: too odd: \*\*\*$"):
        client.find("User", "userName", 'jane "j" roe')


def test_a_page_is_never_quoted(client: TargetClient, receiver: Receiver) -> None:
    receiver.fault("POST", "/Users", Answer(400, HTML.body, HTML.headers))
    with pytest.raises(Refused) as raised:
        client.create("User", ALICE)
    assert str(raised.value) == "POST /Users answered 400"


@pytest.mark.parametrize(
    "answer",
    [
        HTML,
        Answer(201),
        Answer(201, b"[]"),
        Answer(201, b'{"id": "1"'),
        Answer(201, {"userName": "alice"}),
        Answer(201, {"id": 7}),
        Answer(201, {"id": ""}),
        Answer(201, {"id": ".."}),
        Answer(201, {"id": "a\nb"}),
    ],
)
def test_a_create_that_answers_no_usable_resource_may_have_happened(
    client: TargetClient, receiver: Receiver, answer: Answer
) -> None:
    receiver.fault("POST", "/Users", answer)
    with pytest.raises(Troubled):
        client.create("User", ALICE)


@pytest.mark.parametrize(
    "answer", [HTML, Answer(200), Answer(200, {"Resources": {}, "totalResults": 1}), Answer(200, {"id": "1"})]
)
def test_a_search_that_answers_no_list_is_not_taken_for_nobody(
    client: TargetClient, receiver: Receiver, answer: Answer
) -> None:
    receiver.fault("GET", "/Users", answer)
    with pytest.raises(Troubled):
        client.find("User", "userName", "alice")


@pytest.mark.parametrize("answer", [Answer(201, ALICE, cut=True), Answer(0), Answer(201, ALICE, delay=2.0)])
def test_an_answer_that_is_cut_missing_or_late_is_unreachable(
    client: TargetClient, receiver: Receiver, answer: Answer
) -> None:
    receiver.fault("POST", "/Users", answer)
    with pytest.raises(Unreachable, match=r"^POST /Users: "):
        client.create("User", ALICE)


def test_where_our_rules_forbid_to_connect_is_closed() -> None:
    http = HttpClient(Egress())
    with pytest.raises(Closed):
        TargetClient(http, "http://127.0.0.1:9/v2", TOKEN).create("User", ALICE)


def test_a_create_at_a_wrong_base_url_is_the_targets_matter(http: HttpClient, receiver: Receiver) -> None:
    with pytest.raises(Closed, match="base URL"):
        TargetClient(http, receiver.base_url + "/elsewhere", TOKEN).create("User", ALICE)


def test_a_remote_id_cannot_leave_its_place_in_the_path(client: TargetClient, receiver: Receiver) -> None:
    with pytest.raises(Missing):
        client.read("User", "../Groups?x=/1")
    assert receiver.asked[0].path == "/Users/../Groups?x=/1"


def test_a_group_is_read_without_its_members(client: TargetClient, receiver: Receiver) -> None:
    made = client.create("Group", {"displayName": "Sales"})
    client.read("Group", made)
    client.find("Group", "displayName", "Sales")
    assert [asked.query["excludedAttributes"] for asked in receiver.requests("GET")] == ["members"] * 2


def test_what_failed_is_told_without_secrets_and_without_what_is_known_of_a_person(
    client: TargetClient, receiver: Receiver
) -> None:
    said = {"scimType": "invalidValue", "detail": f"{TOKEN} is yours", "userName": "alice@acme.example", "id": "r1"}
    answer = Answer(400, said, {"Retry-After": "7", "Set-Cookie": "session=1", "WWW-Authenticate": f"x {TOKEN}"})
    receiver.fault("POST", "/Users", answer)
    with pytest.raises(Refused) as raised:
        client.create("User", {**ALICE, "emails": [{"value": "a@b.example", "type": "work"}], "password": "s3cret"})
    told = raised.value.told
    assert told is not None
    assert told["request"] == {
        "method": "POST",
        "path": "/Users",
        "body": {
            "schemas": [],
            "userName": "***",
            "externalId": "usr_1",
            "active": True,
            "emails": [{"value": "***", "type": "work"}],
            "password": "***",
        },
    }
    headers = {"content-type": "application/scim+json", "retry-after": "7", "www-authenticate": "x ***"}
    body = {"scimType": "invalidValue", "detail": "*** is yours", "userName": "***", "id": "r1"}
    assert told["answer"] == {"status": 400, "headers": headers, "body": body}


def test_attributes_that_somebody_called_like_something_of_scims_are_not_told(
    client: TargetClient, receiver: Receiver
) -> None:
    urn, said = CUSTOM["User"], {"detail": "ill", "location": "at home", "type": ["x"], "manager": {"value": "Bo"}}
    receiver.fault("POST", "/Users", Answer(400, {"detail": "no", urn: said}))
    with pytest.raises(Refused) as raised:
        client.create("User", {**ALICE, urn: said, ENTERPRISE: {"manager": {"value": "r1"}, "department": "R&D"}})
    assert raised.value.told is not None
    sent, answered = raised.value.told["request"]["body"], raised.value.told["answer"]["body"]
    hidden = {"detail": "***", "location": "***", "type": ["***"], "manager": {"value": "***"}}
    assert (sent[urn], answered) == (hidden, {"detail": "no", urn: hidden})
    assert sent[ENTERPRISE] == {"manager": {"value": "r1"}, "department": "***"}


@pytest.mark.parametrize("before", [0, 200, 290, 299])
def test_no_part_of_our_token_is_told_where_words_are_cut(
    client: TargetClient, receiver: Receiver, before: int
) -> None:
    receiver.fault("POST", "/Users", Answer(400, {"detail": "." * before + TOKEN + "." * 300}))
    with pytest.raises(Refused) as raised:
        client.create("User", ALICE)
    assert raised.value.told is not None
    detail = raised.value.told["answer"]["body"]["detail"]
    assert len(detail) <= 300 and set(detail) <= {".", "*"}
    assert set(str(raised.value).partition("400")[2]) <= set(": .*")


def test_the_members_of_a_group_and_our_ids_are_told_and_names_searched_by_are_not(
    client: TargetClient, receiver: Receiver
) -> None:
    receiver.fault("PATCH", "/Groups/g1", Answer(500))
    members = [{"value": f"r{number}"} for number in range(25)]
    with pytest.raises(Troubled) as raised:
        client.patch(
            "Group",
            "g1",
            [
                {"op": "add", "path": "members", "value": members},
                {"op": "replace", "path": "displayName", "value": "x"},
            ],
        )
    assert raised.value.told is not None
    adding, renaming = raised.value.told["request"]["body"]["Operations"]
    assert adding["value"] == [*members[:10], "… 15 more"] and renaming["value"] == "***"
    receiver.fault("GET", "/Users", Answer(500), times=2)
    for name, value, shown in (("userName", 'al"ice', "***"), ("externalId", "usr_1", "usr_1")):
        with pytest.raises(Troubled) as raised:
            client.find("User", name, value)
        assert raised.value.told is not None
        assert raised.value.told["request"]["query"]["filter"] == f'{name} eq "{shown}"'


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(0), None),
        (Answer(201, {"id": "r1"}, cut=True), None),
        (Answer(502, b"<html>intern</html>"), "19 octets that are not JSON"),
        (Answer(200, b"{" + b" " * 5_000_000 + b"}"), None),
    ],
)
def test_of_an_answer_that_is_none_nothing_is_told_but_its_size(
    client: TargetClient, receiver: Receiver, answer: Answer, told: str | None
) -> None:
    receiver.fault("POST", "/Users", answer)
    with pytest.raises(TargetError) as raised:
        client.create("User", ALICE)
    assert raised.value.told is not None
    assert (raised.value.told["answer"] or {}).get("body") == told


def test_what_is_told_stays_small_however_much_was_said(client: TargetClient, receiver: Receiver) -> None:
    receiver.fault("PUT", "/Users/1", Answer(400, {f"attribute{number}": "x" * 1_000 for number in range(2_000)}))
    with pytest.raises(Refused) as raised:
        client.replace("User", "1", {f"attribute{number}": ["x" * 1_000] * 100 for number in range(100)})
    assert len(orjson.dumps(raised.value.told)) < 12_000


def test_one_that_cannot_search_is_listed_once_and_again_when_an_answer_contradicts_it(
    client: TargetClient, receiver: Receiver
) -> None:
    client.profile = replace(client.profile, searches=False)
    for number in range(20):
        receiver.send("POST", "/Users", {"userName": f"person{number}", "externalId": f"usr_{number}"})
    receiver.asked.clear()
    for number in range(20):
        [found] = client.find("User", "externalId", f"usr_{number}")
        assert [one.id for one in client.find("User", "userName", f"PERSON{number}")] == [found.id]
    made = client.create("User", {"userName": "late", "externalId": "usr_late"})
    assert [one.id for one in client.find("User", "userName", "late")] == [made]
    assert client.find("User", "externalId", "USR_1") == [] and len(receiver.requests("GET", "/Users")) == 1
    receiver.send("POST", "/Users", {"userName": "local"})
    with pytest.raises(Clash):
        client.create("User", {"userName": "local"})
    assert len(client.find("User", "userName", "local")) == 1 and len(receiver.requests("GET", "/Users")) == 2

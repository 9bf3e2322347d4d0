"""Every page, rendered from hostile values: nothing runs, nothing loads, everything is labelled and translated."""

from __future__ import annotations

import gettext
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient

from broker.errors import Forbidden, NotFound, Problem, TooManyRequests
from broker.pages import accent, faces, refusals, words
from broker.pages.door import door, render, source
from broker.pages.faces import Brand, Button, Tile

ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}%(x)s%s"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
FORM = {"action": "/t/acme/sign-in?flow=1&a=b", "csrf": ATTACK}
BRAND = Brand(ATTACK, PIXEL, "#c8102e")
UPSTREAMS = [Button(ATTACK, ATTACK), Button("idp_2", ATTACK)]
TILES = [Tile(ATTACK, "https://wiki.example/?a=b&c", PIXEL), Tile(ATTACK, "/t/acme/open", "https://cdn.example/i.png")]
SCOPES = ["openid", "profile", "email", "offline_access", "scaikey:read", "scaikey:write", "scim", "introspect", ATTACK]

Face = Callable[[], Response]
FACES: dict[str, Face] = {
    "choose": lambda: faces.choose(
        BRAND, **FORM, application=ATTACK, username=ATTACK, providers=UPSTREAMS, ask_password=False, cancel="/back"
    ),
    "choose with password": lambda: faces.choose(
        BRAND, **FORM, application=None, username=ATTACK, providers=UPSTREAMS, ask_password=True, error=ATTACK
    ),
    "choose when locked": lambda: faces.choose(
        BRAND, **FORM, application=None, providers=[], ask_password=True, locked_for=61, status=429
    ),
    "platform": lambda: faces.platform(None, **FORM, application=ATTACK, identifier=ATTACK, cancel="/back"),
    "platform with error": lambda: faces.platform(BRAND, **FORM, error=ATTACK),
    "platform password": lambda: faces.platform_password(None, **FORM, identifier=ATTACK, error=ATTACK, again="/again"),
    "consent": lambda: faces.consent(BRAND, **FORM, application=ATTACK, publisher=ATTACK, scopes=SCOPES, user=ATTACK),
    "logout": lambda: faces.logout(BRAND, **FORM, user=ATTACK, back="/stay"),
    "logged out": lambda: faces.logged_out(BRAND, sign_in="/t/acme/sign-in", back="https://app.example/?a=b&c"),
    "apps": lambda: faces.apps(BRAND, user=ATTACK, applications=TILES, sign_out="/out", csrf=ATTACK),
    "no apps": lambda: faces.apps(BRAND, user=ATTACK, applications=[], sign_out="/out", csrf=ATTACK),
    "post form": lambda: faces.post_form("https://app.example/cb", {"state": ATTACK, ATTACK: "x"}, brand=BRAND),
    "onward": lambda: faces.onward(BRAND, url="https://login.example/?a=b&c=d;e='\"><script>"),
    "refused": lambda: faces.refused(BRAND, title=ATTACK, text=ATTACK, status=403, back="/back", request_id=ATTACK),
    "turned away": lambda: refusals.turned_away(BRAND, "not_assigned", application=ATTACK, request_id=ATTACK),
    "not found": lambda: render(NotFound()),
    "problem": lambda: render(Forbidden(ATTACK)),
}
ALLOWED = frozenset(
    re.findall(
        r"\w+",
        "html head meta title link body header main h1 h2 p a bdi span img code div ul li strong "
        "form input label button fieldset legend script",
    )
)
every_face = pytest.mark.parametrize("face", FACES.values(), ids=FACES)


@dataclass
class Element:
    name: str
    attributes: dict[str, str]
    above: list[Element]
    text: str = ""

    def within(self, name: str) -> Element | None:
        return next((one for one in reversed(self.above) if one.name == name), None)


@dataclass
class Seen(HTMLParser):
    """A page as a browser reads it."""

    elements: list[Element] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, list(self.open))
        self.elements.append(element)
        if tag not in ("meta", "link", "input", "img"):
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1].name == tag, f"</{tag}> closes nothing"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data
        if not any(element.name in ("script", "code") or "aria-hidden" in element.attributes for element in self.open):
            self.texts.append(data)

    def all(self, *names: str) -> list[Element]:
        return [element for element in self.elements if element.name in names]

    def fields(self) -> dict[str, Element]:
        return {element.attributes["name"]: element for element in self.all("input")}


@pytest.fixture(scope="module")
def site() -> Flask:
    app = Flask("faces", static_folder=None, template_folder=str(Path(__file__).parents[3] / "templates"))
    app.register_blueprint(door.blueprint)
    app.register_error_handler(Problem, render)
    return app


@pytest.fixture
def client(site: Flask) -> Iterator[FlaskClient]:
    with site.test_request_context(headers={"Accept-Language": "de, en;q=0.5"}):
        yield site.test_client()


def see(face: Face) -> Seen:
    answer = face()
    assert answer.mimetype == "text/html"
    page = Seen()
    page.feed(answer.get_data(as_text=True))
    page.close()
    assert page.open == [], "something is left open"
    return page


def policy(answer: Response) -> dict[str, list[str]]:
    directives = [directive.split() for directive in answer.headers["Content-Security-Policy"].split(";")]
    assert len({directive[0] for directive in directives}) == len(directives)
    return {name: sources for name, *sources in directives}


@every_face
def test_hostile_values_stay_text(client: FlaskClient, face: Face) -> None:
    page = see(face)
    for element in page.elements:
        assert element.name in ALLOWED, element
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"]
        assert element.attributes.get("src", PIXEL) == PIXEL
        assert "49" not in element.text
    scripts = page.all("script")
    assert len(scripts) == (face is FACES["post form"])
    assert "alert" not in "".join(script.text for script in scripts)


@every_face
def test_a_page_may_load_our_style_sheets_and_nothing_else(client: FlaskClient, face: Face) -> None:
    answer = face()
    said = policy(answer)
    nonce = said.pop("script-src", None)
    sent = said.pop("form-action")
    assert said == {
        "default-src": ["'none'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
    }
    if face is FACES["post form"]:
        [script] = see(face).all("script")
        assert sent == ["https://app.example"] and nonce and len(script.attributes["nonce"]) >= 22
        assert nonce == [f"'nonce-{see(lambda: answer).all('script')[0].attributes['nonce']}'"]
        assert nonce != [f"'nonce-{script.attributes['nonce']}'"], "a nonce is used once"
    else:
        assert sent == ["'self'" if see(face).all("form") else "'none'"] and nonce is None
    for link in see(face).all("link"):
        if link.attributes["rel"] == "stylesheet":
            sheet = client.get(link.attributes["href"])
            assert sheet.status_code == 200 and sheet.mimetype == "text/css"
            assert "immutable" in sheet.headers["Cache-Control"]
            assert "url(" not in sheet.text and "@import" not in sheet.text


@every_face
def test_a_form_of_ours_is_sent_with_its_origin(client: FlaskClient, face: Face) -> None:
    answer = face()
    ours = [form for form in see(face).all("form") if form.attributes["action"].startswith("/")]
    assert answer.headers.get("Referrer-Policy") == ("same-origin" if ours else None)


@every_face
def test_a_page_can_be_read_and_used_by_everybody(client: FlaskClient, face: Face) -> None:
    page = see(face)
    [html] = page.all("html")
    assert html.attributes["lang"] == "en" and len(page.all("h1")) == 1 and len(page.all("main")) == 1
    assert page.all("title")[0].text.strip() and "<" not in str(page.all("title")[0].attributes)
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    labelled = {label.attributes["for"] for label in page.all("label")}
    for element in page.elements:
        for name in element.attributes.get("aria-describedby", "").split():
            assert name in ids
    for entry in page.all("input"):
        if entry.attributes["type"] != "hidden":
            assert entry.attributes["id"] in labelled and "required" in entry.attributes
    for image in page.all("img"):
        assert image.attributes["alt"] == "", "the name stands beside it"
    for pressed in page.all("button", "a", "legend"):
        assert pressed.text.strip()
    for group in page.all("fieldset"):
        assert [legend for legend in page.all("legend") if legend.within("fieldset") is group]
    for form in page.all("form"):
        inside = [entry.attributes for entry in page.all("input") if entry.within("form") is form]
        assert form.attributes["method"] == "post"
        assert face is FACES["post form"] or {"type": "hidden", "name": "csrf", "value": ATTACK} in inside
        assert [button for button in page.all("button") if button.within("form") is form], "no script is needed"
    assert len([element for element in page.elements if "autofocus" in element.attributes]) <= 1


class Wrapped(gettext.NullTranslations):
    def gettext(self, message: str) -> str:
        return f"⟦{message}⟧"

    def ngettext(self, singular: str, plural: str, number: int) -> str:
        return f"⟦{singular if number == 1 else plural}⟧"


@every_face
def test_every_word_on_a_page_can_be_translated(
    client: FlaskClient, face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "translations", lambda language: Wrapped())
    page = see(face)
    for text in page.texts:
        assert left_over(text) == "", text
    for element in page.elements:
        for name in ("title", "aria-label", "placeholder"):
            assert left_over(element.attributes.get(name, "")) == ""


def left_over(text: str) -> str:
    """What of a text is neither a value we put there nor inside the marks of a translation."""
    for value in (ATTACK, "ScaiKey"):
        text = text.replace(value, "")
    # One translation may be a value inside another.
    while (shorter := re.sub(r"⟦[^⟦⟧]*⟧", "", text)) != text:
        text = shorter
    # A sentence with a value in it is several texts.
    text = re.sub(r"⟦[^⟦⟧]*|[^⟦⟧]*⟧", "", text)
    return re.sub(r"[\s·]", "", text)


def test_the_test_of_translation_would_find_a_word_without_one() -> None:
    assert left_over("⟦Sign in to ⟧Wiki") == "Wiki" and left_over(" plain ") == "plain"
    assert left_over(f"⟦Sign in to {ATTACK}⟧ · {ATTACK}") == ""


def test_the_form_asks_for_a_name_first(client: FlaskClient) -> None:
    page = see(FACES["choose"])
    assert set(page.fields()) == {"csrf", "username"}
    name = page.fields()["username"].attributes
    assert (name["autocomplete"], name["value"], name["type"]) == ("username", ATTACK, "text")
    first, second = page.all("form")
    assert first.attributes["action"] == second.attributes["action"] == FORM["action"]
    [go, *upstreams] = page.all("button")
    assert "name" not in go.attributes and go.within("form") is first
    assert [(button.attributes["name"], button.attributes["value"]) for button in upstreams] == [
        ("provider", ATTACK),
        ("provider", "idp_2"),
    ]
    assert all(button.within("form") is second for button in upstreams)
    assert [link.attributes["href"] for link in page.all("a")] == ["/back"]


def test_name_and_password_are_asked_on_one_page_with_what_went_wrong(client: FlaskClient) -> None:
    page = see(FACES["choose with password"])
    assert set(page.fields()) == {"csrf", "username", "password"}
    password = page.fields()["password"].attributes
    assert (password["type"], password["autocomplete"], password["value"]) == ("password", "current-password", "")
    [trouble] = [element for element in page.elements if element.attributes.get("role") == "alert"]
    assert trouble.attributes["tabindex"] == "-1" and "autofocus" in trouble.attributes and ATTACK in trouble.text
    for name in ("username", "password"):
        entry = page.fields()[name].attributes
        assert entry["aria-invalid"] == "true" and entry["aria-describedby"] == trouble.attributes["id"]


@pytest.mark.parametrize(("seconds", "said"), [(1, "in 1 minute."), (60, "in 1 minute."), (61, "in 2 minutes.")])
def test_a_lock_says_how_long_it_lasts(client: FlaskClient, seconds: int, said: str) -> None:
    answer = faces.choose(
        BRAND, **FORM, application=None, providers=[], ask_password=True, locked_for=seconds, status=429
    )
    assert answer.status_code == 429 and said in answer.get_data(as_text=True)


def test_an_unknown_and_a_known_person_meet_the_same_page(client: FlaskClient) -> None:
    one, other = (
        faces.platform_password(None, **FORM, identifier=name).get_data(as_text=True).replace(name, "…")
        for name in ("alice@acme.example", "nobody@nowhere.example")
    )
    assert one == other


def test_consent_asks_in_words_and_shows_unknown_scopes_as_they_are(client: FlaskClient) -> None:
    page = see(FACES["consent"])
    asked = [item.text.strip() for item in page.all("li")]
    assert len(asked) == len(SCOPES) and asked[-1] == ATTACK and not set(asked[:-1]) & set(SCOPES)
    decisions = [(button.attributes["name"], button.attributes["value"]) for button in page.all("button")]
    assert decisions == [("decision", "allow"), ("decision", "deny")]


def test_the_launcher_opens_what_may_be_opened_and_loads_no_picture_from_elsewhere(client: FlaskClient) -> None:
    page = see(FACES["apps"])
    links = [link.attributes["href"] for link in page.all("a")]
    assert links == ["#applications", "https://wiki.example/?a=b&c", "/t/acme/open"]
    assert len(page.all("img")) == 2, "the logo and one icon"
    assert page.all("form")[0].attributes["action"] == "/out"
    assert not see(FACES["no apps"]).all("li")


@pytest.mark.parametrize(
    "url",
    [
        *("javascript:alert(1)", " javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\nscript:alert(1)", "vbscript:x"),
        *("data:text/html,x", "blob:https://x", "filesystem:https://x/y", "file:///etc/passwd", "about:blank"),
        *("//evil.example", "/\\evil.example", "\\\\evil.example", "evil", "", "https://", "http://[::1"),
    ],
)
def test_an_address_that_is_none_makes_no_link(client: FlaskClient, url: str) -> None:
    page = see(lambda: faces.apps(BRAND, user="u", applications=[Tile("x", url)], sign_out="/out", csrf="c"))
    assert [link.attributes["href"] for link in page.all("a")] == ["#applications"]
    assert not see(lambda: faces.refused(BRAND, title="t", text="x", status=403, back=url)).all("a")
    assert not see(lambda: faces.logged_out(BRAND, sign_in=url, back=url)).all("a")
    with pytest.raises(ValueError):
        faces.onward(BRAND, url=url)
    with pytest.raises(ValueError):
        faces.post_form(url, {})


@pytest.mark.parametrize("url", ["https://app.example/x", "http://127.0.0.1:9/cb", "com.example.app:/cb", "/t/acme"])
def test_an_address_that_is_one_makes_a_link(client: FlaskClient, url: str) -> None:
    [link] = see(lambda: faces.refused(BRAND, title="t", text="x", status=403, back=url)).all("a")
    assert link.attributes["href"] == url


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://app.example/cb?x=1", "https://app.example"),
        ("https://App.Example:8443", "https://app.example:8443"),
        ("http://127.0.0.1:5000/cb", "http://127.0.0.1:5000"),
        ("http://[::1]:5000/cb", "http:"),
        ("com.example.app:/cb", "com.example.app:"),
    ],
)
def test_a_form_may_be_answered_by_a_redirect_to_where_its_answer_goes(
    client: FlaskClient, url: str, allowed: str
) -> None:
    assert source(url) == allowed
    answer = faces.consent(BRAND, **FORM, application="x", publisher=None, scopes=[], user="u", then=[url, url])
    assert policy(answer)["form-action"] == ["'self'", allowed]


@pytest.mark.parametrize(
    "url",
    [
        *("https://a;script-src *", "https://a b", "https://a'b", "https://a,b", "https://*", "https://é.example", "*"),
        *("javascript:x", "data:x", "https://", "com.example;x:/", "'unsafe-inline'"),
    ],
)
def test_nothing_can_be_slipped_into_the_policy(client: FlaskClient, url: str) -> None:
    with pytest.raises(ValueError):
        faces.logout(BRAND, **FORM, user="u", then=[url])


def test_the_form_that_sends_itself_works_without_a_script_too(client: FlaskClient) -> None:
    page = see(lambda: faces.post_form("https://app.example/cb", {"code": "c", "submit": "s"}))
    assert {name: entry.attributes["value"] for name, entry in page.fields().items()} == {"code": "c", "submit": "s"}
    [form] = page.all("form")
    assert form.attributes["action"] == "https://app.example/cb"
    assert [button.text for button in page.all("button")] == ["Continue"]


def test_the_tenants_branding_goes_before_its_partners_and_that_before_the_house(client: FlaskClient) -> None:
    partner = {"name": "Contoso ID", "color": "#112233", "logo": "AAAA"}
    assert faces.brand_of("Acme", {}, {}) == Brand("Acme", None, None, "en")
    assert faces.brand_of("Acme", {}, partner) == Brand("Contoso ID", "data:image/png;base64,AAAA", "#112233", "en")
    mixed = faces.brand_of("Acme", {"name": "Acme SSO", "color": "#445566"}, partner)
    assert mixed == Brand("Acme SSO", "data:image/png;base64,AAAA", "#445566", "en")


@pytest.mark.parametrize("value", ["red", "#FFF", "#12345g", '#112233"', 5, None, ["#112233"], ""])
def test_branding_that_is_not_what_it_should_be_is_left_out(client: FlaskClient, value: object) -> None:
    made = faces.brand_of("Acme", {"color": value, "logo": '"><svg onload=x>', "name": 5}, {})
    assert made == Brand("Acme", None, None, "en")
    hostile = Brand("Acme", color=value)  # type: ignore[arg-type]
    assert len(see(lambda: faces.logout(hostile, **FORM, user="u")).all("link")) == 2, "no theme"


COLOURS = ["#000000", "#ffffff", "#ffe14d", "#c8102e", "#06143a", "#777777", "#00ff00", "#1d4fa8", "#ff00ff"]


@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_is_legible_on_light_and_dark(client: FlaskClient, colour: str) -> None:
    [_, theme, _] = see(lambda: faces.logout(Brand("Acme", color=colour), **FORM, user="u")).all("link")
    sheet = client.get(theme.attributes["href"]).text
    light, dark = ({key: value for key, value in re.findall(r"--([a-z-]+):(#\w+)", half)} for half in sheet.split("@"))
    style = (Path(faces.__file__).parent / "static" / "style.css").read_text()
    for said, half in ((light, style.split("@media")[0]), (dark, style.split("@media")[1])):
        grounds = dict(re.findall(r"--(page|card|ground): (#\w+)", half))
        assert len(grounds) == 3
        for ground in ("#ffffff" if value == "#fff" else value for value in grounds.values()):
            assert accent.contrast(said["accent"], ground) >= 4.5
            assert accent.contrast(said["rim"], ground) >= 3
        assert accent.contrast(said["fill"], said["on-fill"]) >= 4.5 and said["fill"] == colour


@pytest.mark.parametrize("name", ["c8102e.css", "C8102E.css", "zzzzzz.css", "c8102e.css.css", "style.css", "door.py"])
def test_a_sheet_is_found_only_at_the_address_of_its_content(client: FlaskClient, name: str) -> None:
    assert client.get(f"/static/000000000000/{name}").status_code == 404


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("tenant_suspended", 403),
        ("user_disabled", 403),
        ("application_disabled", 403),
        ("no_access", 403),
        ("not_assigned", 403),
        ("provider_disabled", 403),
        ("session_ended", 403),
        ("grant_ended", 403),
        ("unknown_person", 403),
        ("ambiguous", 403),
        ("upstream_refused", 403),
        ("upstream_unavailable", 503),
        ("upstream_misconfigured", 502),
        ("flow_expired", 400),
        ("cookies_missing", 400),
        ("forged", 400),
        ("bad_request", 400),
        ("a reason nobody wrote words for", 403),
    ],
)
def test_every_reason_has_a_page_in_plain_words(client: FlaskClient, reason: str, status: int) -> None:
    answer = refusals.turned_away(BRAND, reason, application="100% Wiki", upstream="Acme %s", request_id="req-7")
    page = see(lambda: answer)
    said = page.all("main")[0].text
    assert answer.status_code == status and "req-7" in said
    assert reason not in said and "%(" not in said and len(page.all("h1")[0].text) > 8


def test_a_sentence_begins_with_a_capital_but_a_name_as_it_is_written(client: FlaskClient) -> None:
    assert refusals.explain("upstream_unavailable").text.startswith("Your organisation's sign-in service cannot")
    assert refusals.explain("upstream_unavailable", upstream="eduGAIN").text.startswith("eduGAIN cannot")
    assert "with your organisation's sign-in service is" in refusals.explain("provider_disabled").text


@pytest.mark.parametrize(
    ("problem", "status"), [(NotFound(), 404), (TooManyRequests(), 429), (Problem("x", note="secret"), 500)]
)
def test_a_problem_from_below_is_a_page(client: FlaskClient, problem: Problem, status: int) -> None:
    answer = render(problem)
    assert answer.status_code == status and "secret" not in answer.get_data(as_text=True)


def test_a_page_speaks_a_language_there_is(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert faces.logout(Brand("Acme", language="xx"), **FORM, user="u").headers["Content-Language"] == "en"
    monkeypatch.setattr(words, "LANGUAGES", ("en", "de"))
    assert faces.brand_of("Acme", {}, {}).language == "en", "what this answer has begun in goes on"
    answer = faces.logout(Brand("Acme", language="de"), **FORM, user="u")
    assert answer.headers["Content-Language"] == "de" and 'lang="de"' in answer.get_data(as_text=True)


def test_the_browsers_language_is_taken_when_there_is_a_catalogue(site: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "LANGUAGES", ("en", "de"))
    for asked, answered in (("de-AT, en;q=0.5", "de"), ("fr", "en"), ("", "en"), ("en, de;q=0.9", "en")):
        with site.test_request_context(headers={"Accept-Language": asked}):
            assert words.language() == answered

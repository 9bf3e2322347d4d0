"""The pages of signing in as people see them: photographed on a phone and a desk, and judged by axe-core.

The pages are made from values that journeys do not have: themes, long names, hostile ones. The plain pages are judged
on the way through them, in `test_browser`.
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response
from PIL import Image
from werkzeug.serving import WSGIRequestHandler, make_server

from broker.pages import faces
from broker.pages.door import door
from tests.parties.conftest import Open
from tests.parties.visitor import Visitor

pytestmark = pytest.mark.long

LONG = "Wissenschaftliche-Hochschulverwaltungsgesellschaft-Mecklenburg-Vorpommern" * 2
HOSTILE = '"><script>alert(1)</script>‮evil'


def _logo() -> str:
    file = BytesIO()
    Image.new("RGB", (320, 80), "#b3123f").save(file, "PNG")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


PLAIN = faces.Brand("Acme")
THEMED = faces.Brand("Acme Rocket Works", _logo(), "#ffe100")
WORST = faces.Brand(LONG, None, "#101010")
FORM = {"action": "/there", "csrf": "0" * 64}
BUTTONS = [faces.Button("idp_1", "Acme Active Directory"), faces.Button("idp_2", LONG), faces.Button("idp_3", HOSTILE)]
TILES = [
    faces.Tile("Wiki", "https://wiki.example/"),
    faces.Tile(LONG, "https://long.example/", _logo()),
    faces.Tile("Without an address", None),
    *(faces.Tile(f"Application {number}", "https://x.example/") for number in range(9)),
]

PAGES: dict[str, Callable[[], Response]] = {
    "sign-in": lambda: faces.choose(PLAIN, **FORM, application="Wiki", providers=BUTTONS[:1], ask_password=True),
    "sign-in, themed": lambda: faces.choose(
        THEMED, **FORM, application="Wiki", providers=BUTTONS[:2], ask_password=True, cancel="/back"
    ),
    "sign-in, worst": lambda: faces.choose(
        WORST, **FORM, application=HOSTILE + LONG, username=HOSTILE, providers=BUTTONS, ask_password=True
    ),
    "sign-in, name only": lambda: faces.choose(PLAIN, **FORM, application=None, providers=[], ask_password=False),
    "sign-in, locked": lambda: faces.choose(
        THEMED, **FORM, application="Wiki", username="alice", providers=[], ask_password=True, locked_for=310
    ),
    "platform, password": lambda: faces.platform_password(**FORM, identifier="alice@acme.example", again="/again"),
    "consent": lambda: faces.consent(
        PLAIN,
        **FORM,
        application="Somebody else's",
        publisher="Others Ltd",
        scopes=["openid", "profile", "email", "offline_access", "made:up"],
        user="alice@acme.example",
    ),
    "consent, worst": lambda: faces.consent(
        WORST, **FORM, application=HOSTILE + LONG, publisher=LONG, scopes=[LONG.lower()], user=LONG
    ),
    "log out": lambda: faces.logout(THEMED, **FORM, user="alice@acme.example", back="/apps"),
    "launcher": lambda: faces.apps(PLAIN, user="alice@acme.example", applications=TILES, sign_out="/out", csrf="0"),
    "launcher, themed": lambda: faces.apps(THEMED, user="Alice", applications=TILES[:2], sign_out="/out", csrf="0"),
    "launcher, empty": lambda: faces.apps(WORST, user=LONG, applications=[], sign_out="/out", csrf="0"),
    "refused, worst": lambda: faces.refused(
        WORST, title=HOSTILE, text=LONG, status=403, back="/back", request_id="f" * 128
    ),
}


@pytest.fixture(scope="module")
def gallery() -> Iterator[str]:
    """The address below which the pages hang, by their number in `PAGES`."""
    web = Flask("gallery", static_folder=None, template_folder=str(Path(__file__).parents[2] / "templates"))
    web.register_blueprint(door.blueprint)

    class Handler(WSGIRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Nobody reads it."""

    def answer(environ: Mapping[str, Any], start: Any) -> Any:
        name = environ["PATH_INFO"].removeprefix("/gallery/")
        if not name.isdigit():
            return web(environ, start)
        with web.test_request_context():
            return list(PAGES.values())[int(name)]()(environ, start)

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://localhost:{server.server_port}/gallery"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def visitor(browser: Open) -> Iterator[Visitor]:
    with browser() as one:
        yield one


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_fit_for_everybody(name: str, gallery: str, visitor: Visitor) -> None:
    before = len(visitor.complaints)
    visitor.goto(f"{gallery}/{list(PAGES).index(name)}")
    assert visitor.look(name) == []
    assert [text for text in visitor.complaints[before:] if "responded with a status" not in text] == []


def test_the_judge_sees_what_is_wrong(visitor: Visitor) -> None:
    visitor.goto("data:text/html,<html lang=en><title>x</title><img src='x'><p style='width:3000px;color:%23eee'>pale")
    assert {text.split(": ")[1] for text in visitor.look("bad")} == {
        "image-alt",
        "color-contrast",
        "wider than the screen",
    }

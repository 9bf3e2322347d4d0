"""The pages this door needs, made by the pages' door and handed over by the assembly: doors never import each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from flask import Flask, Response, current_app

from broker.errors import Problem
from broker.sign_in.sessions import LiveSession

_KEY = "scaikey.oidc.faces"


class Faces(Protocol):
    """What is shown to a person at this door."""

    def turned_away(self, reason: str, detail: str = "") -> Response:
        """The page of a reason code of the pages, with what was wrong for whoever builds the application."""

    def refused(self, problem: Problem) -> Response: ...
    def post_form(self, url: str, fields: Mapping[str, str]) -> Response: ...
    def logout(self, session: LiveSession, *, action: str, csrf: str, then: Sequence[str]) -> Response: ...
    def onward(self, url: str) -> Response: ...
    def logged_out(self) -> Response: ...


def hand_over(app: Flask, faces: Any) -> None:
    app.extensions[_KEY] = faces


def faces() -> Faces:
    return cast(Faces, current_app.extensions[_KEY])

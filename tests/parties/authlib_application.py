"""A web application as others write it: Flask and Authlib's client, run by the Python of an environment of its own.

One application per registration, at `/NAME/`. It says its base URL first, is told its registrations as lines of JSON,
and ends with its standard input.
"""

from __future__ import annotations

import json
import secrets
import sys
import threading
from typing import Any

from authlib.integrations.base_client import OAuthError
from authlib.integrations.flask_client import OAuth
from flask import Flask, Response, request, url_for
from werkzeug.serving import make_server

app = Flask(__name__)
app.secret_key = secrets.token_bytes(32)
app.config["SESSION_COOKIE_NAME"] = "authlib-application"
oauth = OAuth(app)
kept: dict[str, Any] = {}


def page(said: object) -> str:
    text = json.dumps(said).replace("<", "\\u003c")
    return (
        '<!doctype html><html lang="en"><title>Authlib</title><link rel="icon" href="data:,">'
        f'<h1>Authlib</h1><pre id="said">{text}</pre></html>'
    )


@app.get("/<name>/")
def home(name: str) -> str:
    return page({"home": name})


@app.get("/<name>/sign-in")
def sign_in(name: str) -> Response:
    return oauth.create_client(name).authorize_redirect(url_for("callback", name=name, _external=True))


@app.route("/<name>/callback", methods=["GET", "POST"])
def callback(name: str) -> str:
    try:
        kept[name] = oauth.create_client(name).authorize_access_token()
    except OAuthError as error:
        return page({"error": error.error, "description": error.description})
    return page({"signed_in": kept[name]})


@app.get("/<name>/userinfo")
def userinfo(name: str) -> str:
    return page({"userinfo": oauth.create_client(name).userinfo(token=kept[name])})


@app.get("/<name>/refresh")
def refresh(name: str) -> str:
    client = oauth.create_client(name)
    try:
        kept[name] = {
            **kept[name],
            **client.fetch_access_token(grant_type="refresh_token", refresh_token=kept[name]["refresh_token"]),
        }
    except OAuthError as error:
        return page({"error": error.error})
    return page({"refreshed": kept[name]})


@app.get("/<name>/sign-out")
def sign_out(name: str) -> Response:
    client = oauth.create_client(name)
    return client.logout_redirect(url_for("farewell", name=name, _external=True), kept[name]["id_token"])


@app.get("/<name>/farewell")
def farewell(name: str) -> str:
    oauth.create_client(name).validate_logout_response()
    return page({"signed_out": name})


@app.errorhandler(Exception)
def failed(error: Exception) -> tuple[str, int]:
    print(request.path, repr(error), file=sys.stderr, flush=True)
    return page({"failed": repr(error)}), 500


def main() -> None:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"base_url": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    for line in sys.stdin:
        said = json.loads(line)
        oauth.register(
            said["name"],
            server_metadata_url=f"{said['issuer']}/.well-known/openid-configuration",
            client_id=said["client_id"],
            client_secret=said["client_secret"],
            client_kwargs={"scope": said["scope"], "code_challenge_method": "S256", **said.get("client", {})},
        )
        print(json.dumps({"answer": None}), flush=True)


main()

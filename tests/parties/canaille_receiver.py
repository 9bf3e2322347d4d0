"""A SCIM server that others wrote: the one in canaille, as pytest-iam serves it, run by its own environment's Python.

Says its base URL and the token of a client that may provision as one line of JSON, and ends with its standard input. It
begins without people and without groups.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import uuid
from datetime import UTC, datetime

import portpicker
from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from joserfc.jwk import RSAKey
from pytest_iam import Server


def main() -> None:
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
    port = portpicker.pick_unused_port()
    key = RSAKey.generate_key(2048, auto_kid=True)
    app = create_app(
        config={
            # Not TESTING: that would let exceptions through to the WSGI server instead of answering 500.
            "ENV_FILE": None,
            "SECRET_KEY": str(uuid.uuid4()),
            "WTF_CSRF_ENABLED": False,
            "PREFERRED_URL_SCHEME": "http",
            "SERVER_NAME": f"localhost:{port}",
            "CANAILLE": {"DATABASE": "memory", "JAVASCRIPT": False},
            "CANAILLE_OIDC": {"ACTIVE_JWKS": [key.as_dict(private=True)]},
            "CANAILLE_SCIM": {"ENABLE_SERVER": True},
        }
    )
    server = Server(app, port, Backend.instance)
    with app.app_context():
        client = models.Client(
            client_id="scaikey",
            client_name="ScaiKey",
            client_secret=str(uuid.uuid4()),
            client_id_issued_at=datetime.now(UTC),
            scope=["openid"],
            grant_types=["client_credentials"],
        )
        Backend.instance.save(client)
    token = server.random_token(subject=None, client=client, lifetime=86_400)
    threading.Thread(target=server.httpd.serve_forever, daemon=True).start()
    print(json.dumps({"base_url": f"{server.url}scim/v2", "token": token.access_token}), flush=True)
    sys.stdin.read()


main()

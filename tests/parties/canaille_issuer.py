"""An OpenID provider that others wrote: canaille, run by the Python of its own environment.

Takes its people (name → password and attributes) as one argument of JSON, says its issuer as one line of JSON, and ends
with its standard input. Clients register themselves (RFC 7591).
"""

from __future__ import annotations

import json
import os
import sys
import threading
import uuid

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from joserfc.jwk import RSAKey
from werkzeug.serving import make_server


def main() -> None:
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
    people = json.loads(sys.argv[1])
    server = make_server("127.0.0.1", 0, lambda environ, start: app(environ, start), threaded=True)
    key = RSAKey.generate_key(2048, auto_kid=True)
    app = create_app(
        config={
            "TESTING": True,
            "ENV_FILE": None,
            "SECRET_KEY": str(uuid.uuid4()),
            "PREFERRED_URL_SCHEME": "http",
            "SERVER_NAME": f"127.0.0.1:{server.server_port}",
            "CANAILLE": {
                "DATABASE": "memory",
                "JAVASCRIPT": False,
                "ACL": {"DEFAULT": {"PERMISSIONS": ["use_oidc", "edit_self"]}},
            },
            "CANAILLE_OIDC": {"DYNAMIC_CLIENT_REGISTRATION_OPEN": True, "ACTIVE_JWKS": [key.as_dict(private=True)]},
        }
    )
    with app.app_context():
        for name, person in people.items():
            Backend.instance.save(models.User(user_name=name, password=person["password"], **person["attributes"]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"issuer": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    sys.stdin.read()


main()

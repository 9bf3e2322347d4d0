"""The samples of `docs/tokens.md` take what they should and refuse the rest, exactly as they are printed."""

from __future__ import annotations

import base64
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from broker.db import platform_scope
from oidc import keys
from oidc.tokens import Issuer
from tests.casting import Cast, make_user
from tests.oidc.minting import SignedIn, sign_in
from tests.parties.party import INSTALLED, needed

TEXT = (Path(__file__).parents[2] / "docs" / "tokens.md").read_text()
AUDIENCE = "https://billing.acme.example"


def sample(language: str, issuer: str, tenant_id: str | None) -> str:
    """The one block in that language, with its three constants set."""
    [text] = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    for name, value in {"ISSUER": issuer, "AUDIENCE": AUDIENCE, "TENANT_ID": tenant_id}.items():
        text, count = re.subn(rf'\b{name} = "[^"]*"', f'{name} = "{value}"', text, count=1)
        assert count == 1, name
    return str(text)


@dataclass
class KeyServer:
    """Answers at an issuer's `/oauth/jwks`; what it shows, and what it was asked for."""

    base: str = ""
    shown: bytes = b""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def served() -> Iterator[KeyServer]:
    found = KeyServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(found.shown)))
            self.end_headers()
            self.wfile.write(found.shown)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    found.base = f"http://127.0.0.1:{server.server_port}/api/v1/auth/tenants"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def alice(acme: Cast, served: KeyServer) -> SignedIn:
    served.shown = keys.ring().jwks()
    return sign_in(acme.acme, make_user(acme.acme), issuer=Issuer(f"{served.base}/{acme.acme.slug}", acme.acme))


def changed(token: str, key: Any, header: dict[str, Any], **claims: Any) -> str:
    """The token with other claims, under another header, signed by a key or (None) by nobody."""
    first, second, _ = token.split(".")
    header = {**orjson.loads(_bytes(first)), **header}
    payload = orjson.dumps({**orjson.loads(_bytes(second)), **claims})
    if key is None:
        return f"{_text(orjson.dumps(header))}.{_text(payload)}."
    return jws.serialize_compact(header, payload, key, algorithms=["RS256"])


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def refusals(acme: Cast, alice: SignedIn) -> dict[str, str]:
    good, ours = alice.token(AUDIENCE), keys.ring().signing("RS256")
    other_issuer = Issuer(alice.issuer.url.replace("acme", "globex"), acme.globex)
    other = sign_in(acme.globex, make_user(acme.globex), issuer=other_issuer)
    return {
        "wrong tenant": other.token(AUDIENCE),
        "our issuer, another tenant": changed(good, ours, {}, tenant_id=acme.globex.tenant_id),
        "wrong audience": alice.token("https://crm.acme.example"),
        "an ID token": alice.id_token(),
        "an ID token for this very API": changed(good, ours, {"typ": "JWT"}),
        "alg none": changed(good, None, {"alg": "none"}),
        "a stranger's key": changed(good, RSAKey.generate_key(2048), {}),
        "expired": changed(good, ours, {}, exp=int(time.time()) - 1),
        "no end": changed(good, ours, {}, exp=None),
        "nothing": "",
    }


def python_sample(issuer: str, tenant_id: str | None) -> Callable[[str], Any]:
    room: dict[str, Any] = {}
    exec(compile(sample("python", issuer, tenant_id), "docs/tokens.md", "exec"), room)
    return room["validate"]  # type: ignore[no-any-return]


def test_the_python_sample(acme: Cast, alice: SignedIn, served: KeyServer) -> None:
    validate = python_sample(alice.issuer.url, acme.acme.tenant_id)
    assert validate(alice.token(AUDIENCE))["sub"] == alice.user_id
    for name, token in refusals(acme, alice).items():
        try:
            validate(token)
        except (ValueError, JoseError):
            continue
        pytest.fail(f"taken: {name}")
    assert served.asked == [f"/api/v1/auth/tenants/{acme.acme.slug}/oauth/jwks"]


def test_the_python_sample_learns_of_a_new_key_and_does_not_ask_for_every_invented_one(
    acme: Cast, alice: SignedIn, served: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = python_sample(alice.issuer.url, acme.acme.tenant_id)
    old = alice.token(AUDIENCE)
    validate(old)
    with platform_scope():
        keys.rotate(emergency=True)
        keys.rotate(emergency=True)
    served.shown, new = keys.ring().jwks(), alice.token(AUDIENCE)
    for _ in range(5):
        with pytest.raises(JoseError):
            validate(new)
    assert len(served.asked) == 1
    later = time.monotonic() + 11
    monkeypatch.setattr("time.monotonic", lambda: later)
    assert validate(new)["sub"] == alice.user_id
    with pytest.raises(JoseError):
        validate(old)
    assert len(served.asked) == 2


def test_the_node_sample(acme: Cast, alice: SignedIn, served: KeyServer, tmp_path: Path) -> None:
    node = needed("node")
    (tmp_path / "node_modules").symlink_to(INSTALLED / "node_modules")
    (tmp_path / "sample.mjs").write_text(sample("js", alice.issuer.url, acme.acme.tenant_id))
    (tmp_path / "ask.mjs").write_text(
        "import { validate } from './sample.mjs';\n"
        "const told = [];\n"
        "for (const token of JSON.parse(process.argv[2]))\n"
        "  told.push(await validate(token).then((said) => said.sub, () => null));\n"
        "console.log(JSON.stringify(told));\n"
    )
    wrong = refusals(acme, alice)
    asked = orjson.dumps([alice.token(AUDIENCE), *wrong.values()]).decode()
    answer = subprocess.run([node, "ask.mjs", asked], cwd=tmp_path, capture_output=True, timeout=60, check=True)
    told = orjson.loads(answer.stdout)
    assert told[0] == alice.user_id
    assert [name for name, sub in zip(wrong, told[1:], strict=True) if sub is not None] == []

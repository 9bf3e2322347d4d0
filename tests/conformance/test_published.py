"""What vendors publish to try a SCIM server with, as data, asked of ours in front of the network.

Microsoft's collection for Postman (AzureAD/SCIMReferenceCode, MIT licence) is run by newman (Apache-2.0); both with
`make parties`. What it expects beside the RFC is listed with the reason: nothing else may fail, and all of it must.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from threading import Thread

import orjson
import pytest
from flask import Flask
from werkzeug.serving import make_server

from tests.conftest import World
from tests.parties.party import INSTALLED, installed, needed
from tests.parties.published import PUBLISHED
from tests.scim.conftest import token_of

BESIDE_THE_RFC = {
    "Get empty Users": "asks for /users, and paths are compared as they are written",
    "Get ServiceProviderConfig": "asks for /serviceConfiguration, which RFC 7644 section 4 calls otherwise",
    "Get group by id": "members are shown with their names to who asks for members.display",
    "Get user attributes": "a filter among the attributes to be returned",
    "Get user via attributes filter": "a filter among the attributes to be returned",
    "Patch user omalley new username": "204 where ours shows the resource, both of which RFC 7644 section 3.5.2 allows",
    "patch user omalley active with boolean": "the same",
    "Group patch add member": "the same",
    "Group patch add member2": "the same",
    "filter eq and (val or val)": "text without quotation marks",
    "filter starts with": "text without quotation marks",
    "filter greater than": "text without quotation marks",
}
OUR_OWN_TOKEN = "Get Token"


def test_microsofts_requests_fail_for_what_is_beside_the_rfc_alone(web: Flask, world: World, tmp_path: Path) -> None:
    needed("node")
    newman, collection = installed("node_modules/newman/bin/newman.js"), INSTALLED / "published" / "microsoft.json"
    if not collection.exists():
        # In CI, too: no registry has it, and a host that cannot be reached from there says nothing about us.
        pytest.skip(f"MICROSOFT'S PUBLISHED REQUESTS COULD NOT BE FETCHED: {PUBLISHED['microsoft.json'][0]}")
    published = collection.read_bytes()
    assert hashlib.sha256(published).hexdigest() == PUBLISHED["microsoft.json"][1]
    folders = [one["name"] for one in orjson.loads(published)["item"] if one["name"] != OUR_OWN_TOKEN]
    server = make_server("127.0.0.1", 0, web, threaded=True)
    Thread(target=server.serve_forever, daemon=True).start()
    said = {
        "Protocol": "http",
        "Server": "127.0.0.1",
        "Port": f":{server.server_port}",
        "Api": f"scim/v2/{world.acme.slug}",
        "token": token_of(world.acme),
    }
    command = [needed("node"), str(newman), "run", str(collection), "--reporters", "json"]
    command += ["--reporter-json-export", str(tmp_path / "run.json")]
    command += [part for name, value in said.items() for part in ("--env-var", f"{name}={value}")]
    command += [part for name in folders for part in ("--folder", name)]
    try:
        subprocess.run(command, capture_output=True, timeout=110, check=False)
    finally:
        server.shutdown()
        server.server_close()
    run = orjson.loads((tmp_path / "run.json").read_bytes())["run"]
    assert run["stats"]["requests"] == {"total": 77, "pending": 0, "failed": 0}
    failed = {
        one["item"]["name"]: [each["assertion"] for each in one["assertions"] if each.get("error")]
        for one in run["executions"]
        if any(each.get("error") for each in one.get("assertions", ()))
    }
    assert failed.keys() == BESIDE_THE_RFC.keys(), failed
    assert run["stats"]["assertions"]["total"] >= 100

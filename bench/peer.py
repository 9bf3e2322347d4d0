"""scim2-server's reference server as a WSGI application: its own in-memory store, for gunicorn to serve from one
process."""

from __future__ import annotations

import os
import secrets

from scim2_models import ScimProvider
from scim2_server.memory import InMemoryStorage
from scim2_server.service import ScimService
from scim2_server.testserver.application import BearerTokenApplication
from scim2_server.utils import load_default_resource_types, load_default_schemas, load_default_service_provider_config

_provider = ScimProvider.from_discovery(
    load_default_schemas().values(),
    load_default_resource_types().values(),
    config=load_default_service_provider_config(),
)
app = BearerTokenApplication(
    InMemoryStorage(),
    _provider,
    service=ScimService(_provider, secret=secrets.token_urlsafe(32)),
    bearer_tokens=[os.environ["PEER_TOKEN"]],
)

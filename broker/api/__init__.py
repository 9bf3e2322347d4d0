"""The admin API (`/api/v1`): one module per resource, each registering its routes at the door.

People, groups and units have one public shape, SCIM, and are not here.
"""

from broker.api import (
    applications,
    archive,
    auth,
    custom_attributes,
    documents,
    domains,
    events,
    identity_providers,
    later,
    partners,
    personal_access_tokens,
    role_assignments,
    scim_targets,
    scim_tokens,
    service_accounts,
    sessions,
    settings,
    sync_runs,
    target_runs,
    tenants,
    users,
)
from broker.api.door import api, render

__all__ = [
    "api",
    "applications",
    "archive",
    "auth",
    "custom_attributes",
    "documents",
    "domains",
    "events",
    "identity_providers",
    "later",
    "partners",
    "personal_access_tokens",
    "render",
    "role_assignments",
    "scim_targets",
    "scim_tokens",
    "service_accounts",
    "sessions",
    "settings",
    "sync_runs",
    "target_runs",
    "tenants",
    "users",
]

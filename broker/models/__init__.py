"""The tables. A stored field and its type are said here and nowhere else.

Nothing here acts: who writes which table is said in the table's own module.
"""

from .applications import (
    Application,
    ApplicationAccess,
    Assignment,
    ScimTarget,
    TargetMember,
    TargetRemoval,
    TargetResource,
)
from .base import Base, DirectoryOwned, TenantOwned
from .credentials import PersonalAccessToken, RoleAssignment, ScimToken
from .events import Delivery, Event
from .people import Group, Link, LinkRecord, Membership, OrganizationalUnit, Resource, ResourceValue, User
from .providers import HeldRemoval, IdentityProvider, SyncRun, SyncSkip
from .tenancy import Domain, Partner, PlatformFact, RetiredSlug, SettingValue, Tenant

__all__ = [
    "Application",
    "ApplicationAccess",
    "Assignment",
    "Base",
    "Delivery",
    "DirectoryOwned",
    "Domain",
    "Event",
    "Group",
    "HeldRemoval",
    "IdentityProvider",
    "Link",
    "LinkRecord",
    "Membership",
    "OrganizationalUnit",
    "Partner",
    "PersonalAccessToken",
    "PlatformFact",
    "Resource",
    "ResourceValue",
    "RetiredSlug",
    "RoleAssignment",
    "ScimTarget",
    "ScimToken",
    "SettingValue",
    "SyncRun",
    "SyncSkip",
    "TargetMember",
    "TargetRemoval",
    "TargetResource",
    "Tenant",
    "TenantOwned",
    "User",
]

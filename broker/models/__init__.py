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
from .archives import ArchiveRefusal, ArchiveRun
from .base import Base, DirectoryOwned, TenantOwned
from .credentials import PersonalAccessToken, RoleAssignment, ScimToken
from .declarations import CustomAttribute
from .events import Delivery, Event
from .oauth import (
    AuthorizationCode,
    ClientSecret,
    Consent,
    Grant,
    RefreshToken,
    RevokedToken,
    ServiceAccount,
    SigningKey,
)
from .people import (
    Agent,
    Group,
    Link,
    LinkRecord,
    Membership,
    OrganizationalUnit,
    Resource,
    ResourceCount,
    ResourceValue,
    User,
)
from .providers import HeldRemoval, IdentityProvider, SyncRun, SyncSkip
from .sign_in import Attempt, OneTime, Password, Session, SignInFlow
from .targets import TargetConvergence, TargetDrift, TargetRun
from .tenancy import Domain, Partner, PlatformFact, RetiredSlug, SettingValue, Tenant

__all__ = [
    "Agent",
    "Application",
    "ApplicationAccess",
    "ArchiveRefusal",
    "ArchiveRun",
    "Assignment",
    "Attempt",
    "AuthorizationCode",
    "Base",
    "ClientSecret",
    "Consent",
    "CustomAttribute",
    "Delivery",
    "DirectoryOwned",
    "Domain",
    "Event",
    "Grant",
    "Group",
    "HeldRemoval",
    "IdentityProvider",
    "Link",
    "LinkRecord",
    "Membership",
    "OneTime",
    "OrganizationalUnit",
    "Partner",
    "Password",
    "PersonalAccessToken",
    "PlatformFact",
    "RefreshToken",
    "Resource",
    "ResourceCount",
    "ResourceValue",
    "RetiredSlug",
    "RevokedToken",
    "RoleAssignment",
    "ScimTarget",
    "ScimToken",
    "ServiceAccount",
    "Session",
    "SettingValue",
    "SignInFlow",
    "SigningKey",
    "SyncRun",
    "SyncSkip",
    "TargetConvergence",
    "TargetDrift",
    "TargetMember",
    "TargetRemoval",
    "TargetResource",
    "TargetRun",
    "Tenant",
    "TenantOwned",
    "User",
]

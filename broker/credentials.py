"""The only hasher and checker of what machines show: personal access tokens, SCIM tokens and clients' secrets.

Owns the form of a token, its digest, and the rows of all kinds: minting (the secret is returned once and
never stored), revoking, rotating, the note of a token's last use. Secrets are 256 random bits, so one SHA-256 is the
right digest; what people choose themselves is `passwords`'. Who may mint for whom is the door's question; turning a
token into an actor is `access`'.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from . import events, ids
from .db import current_scope, db
from .errors import Conflict, NotFound, ValidationFailed
from .models import ClientSecret, IdentityProvider, PersonalAccessToken, ScimToken, User
from .protocol import OUR_AUDIENCE, OUR_SCOPES

PAT_PREFIX = "skt_"
SCIM_PREFIX = "sks_"
CLIENT_PREFIX = "skc_"
DEFAULT_LIFE = timedelta(days=90)
LONGEST_LIFE = timedelta(days=366)
LONGEST_LIFE_FOR_OTHERS = timedelta(days=30)
LEEWAY = timedelta(minutes=1)
"""Between the clocks of who asks for the longest life and ours."""
OVERLAP = timedelta(hours=24)
LONGEST_OVERLAP = timedelta(days=30)
MOST_CLIENT_SECRETS = 5
"""Of one client that may be valid at once."""

_ONE_ROTATION = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('client_secret ' || :id, 0))")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BODY = 43
_CHECK = 6


def new_secret(prefix: str) -> str:
    """A fresh token: prefix, 256 random bits in base62, and a checksum by which scanners know it."""
    body = _base62(secrets.randbits(256), _BODY)
    return prefix + body + _checksum(prefix + body)


def digest_of(secret: str) -> bytes | None:
    """What is stored and looked up; None when the text cannot be one of our tokens."""
    length = len(PAT_PREFIX) + _BODY + _CHECK
    if len(secret) != length or not secret.isascii() or not secret.startswith((PAT_PREFIX, SCIM_PREFIX)):
        return None
    if _checksum(secret[:-_CHECK]) != secret[-_CHECK:]:
        return None
    return hashlib.sha256(secret.encode()).digest()


def mint_pat(
    user_id: str,
    *,
    name: str,
    audiences: Sequence[str] = (OUR_AUDIENCE,),
    scopes: Sequence[str] = ("scaikey:read",),
    expires_at: datetime | None = None,
    longest: timedelta = LONGEST_LIFE,
    created_by: str | None = None,
    bootstrap: bool = False,
) -> tuple[PersonalAccessToken, str]:
    """A token for a user of the open unit's tenant, and its secret. Raises NotFound, ValidationFailed."""
    session = db.session()
    tenant_id = current_scope().tenant_id
    user = session.scalar(sa.select(User).where(User.id == user_id, User.removed_at.is_(None)))
    if user is None:
        raise NotFound("There is no such user")
    now = datetime.now(UTC)
    expires_at = expires_at or now + min(DEFAULT_LIFE, longest)
    errors: dict[str, list[str]] = {}
    if not now < expires_at <= now + longest + LEEWAY:
        errors["expires_at"] = [f"Must be in the future and at most {longest.days} days away."]
    if unknown := sorted(set(scopes) - set(OUR_SCOPES)):
        errors["scopes"] = [f"Unknown: {', '.join(unknown)}. Known are {', '.join(OUR_SCOPES)}."]
    if errors:
        raise ValidationFailed(errors=errors)
    secret = new_secret(PAT_PREFIX)
    token = PersonalAccessToken(
        tenant_id=tenant_id,
        id=ids.new("pat"),
        user_id=user_id,
        name=name,
        audiences=list(dict.fromkeys(audiences)),
        scopes=list(dict.fromkeys(scopes)),
        digest=hashlib.sha256(secret.encode()).digest(),
        bootstrap=bootstrap,
        created_by=created_by,
        expires_at=expires_at,
    )
    session.add(token)
    session.flush()
    _record(
        "personal_access_token.created", "PersonalAccessToken", token.id, {"user_id": user_id, "scopes": token.scopes}
    )
    return token, secret


def mint_scim_token(values: dict[str, Any]) -> tuple[ScimToken, str]:
    """An inbound SCIM credential of the open unit's tenant, and its secret. Raises ValidationFailed."""
    _check_scim_token(values)
    session = db.session()
    secret = new_secret(SCIM_PREFIX)
    token = ScimToken(id=ids.new("sct"), digest=hashlib.sha256(secret.encode()).digest(), **values)
    session.add(token)
    session.flush()
    _record("scim_token.created", "ScimToken", token.id, sorted(values))
    return token, secret


def change_scim_token(token: ScimToken, values: Mapping[str, Any]) -> None:
    """Set what differs. Raises ValidationFailed."""
    differing = {name: value for name, value in values.items() if getattr(token, name) != value}
    _check_scim_token(differing)
    for name, value in differing.items():
        setattr(token, name, value)
    if differing:
        db.session().flush()
        _record("scim_token.updated", "ScimToken", token.id, sorted(differing))


def rotate_scim_token(token: ScimToken, overlap: timedelta) -> str:
    """A new secret for the token. The one before it holds for `overlap` longer, and no later than the token; one that
    came before that holds no longer. The row must be locked. Raises ValidationFailed.
    """
    _check_overlap(overlap)
    secret, now = new_secret(SCIM_PREFIX), datetime.now(UTC)
    if overlap:
        token.earlier_digest, token.earlier_until = token.digest, now + overlap
    else:
        token.earlier_digest = token.earlier_until = None
    token.digest = hashlib.sha256(secret.encode()).digest()
    db.session().flush()
    _record("scim_token.rotated", "ScimToken", token.id, {"overlap": int(overlap.total_seconds())})
    return secret


def _check_scim_token(values: Mapping[str, Any]) -> None:
    expires_at, provider_id = values.get("expires_at"), values.get("identity_provider_id")
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise ValidationFailed(errors={"expires_at": ["Must be in the future."]})
    if provider_id is not None and not db.session().scalar(
        sa.select(IdentityProvider.id).where(IdentityProvider.id == provider_id)
    ):
        raise ValidationFailed(errors={"identity_provider_id": ["There is no such identity provider."]})


def _check_overlap(overlap: timedelta) -> None:
    if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
        raise ValidationFailed(errors={"overlap": [f"Must be 0 to {int(LONGEST_OVERLAP.total_seconds())} seconds."]})


def mint_client_secret(
    *, application_id: str | None = None, service_account_id: str | None = None, overlap: timedelta = OVERLAP
) -> tuple[ClientSecret, str]:
    """A new secret of a client of the open unit's tenant. Earlier ones hold for `overlap` longer, and no later than
    they would have. Raises ValidationFailed, and Conflict while too many are valid; without overlap there never are.
    """
    _check_overlap(overlap)
    session, now = db.session(), datetime.now(UTC)
    owner_id = application_id or service_account_id or ""
    # Two rotations of one client in the same moment: the second one sees the first one's secret.
    session.execute(_ONE_ROTATION, {"id": owner_id})
    valid = 0
    for earlier in session.scalars(sa.select(ClientSecret).where(_of_client(application_id, service_account_id))):
        earlier.expires_at = min(earlier.expires_at or now + overlap, now + overlap)
        if earlier.expires_at <= now:
            session.delete(earlier)
        else:
            valid += 1
    if valid >= MOST_CLIENT_SECRETS:
        raise Conflict(f"{valid} secrets are valid already: rotate with an overlap of 0, or wait until one has ended")
    secret = new_secret(CLIENT_PREFIX)
    row = ClientSecret(
        id=ids.new("cls"),
        application_id=application_id,
        service_account_id=service_account_id,
        digest=client_secret_digest(secret),
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    noun, kind = ("application", "Application") if application_id else ("service_account", "ServiceAccount")
    _record(f"{noun}.secret_created", kind, owner_id, {"secret_id": row.id, "earlier": valid})
    return row, secret


def forget_client_secrets(*, application_id: str | None = None, service_account_id: str | None = None) -> None:
    """No secret of this client is valid from now on."""
    db.session().execute(sa.delete(ClientSecret).where(_of_client(application_id, service_account_id)))


def client_secret_digest(secret: str) -> bytes:
    """What is stored of a client's secret; computed for any text, so that a wrong form takes no other way."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def client_secret_valid(secret: str, digests: Iterable[bytes]) -> bool:
    """Whether the secret is one of those whose digests these are; the time tells nothing."""
    shown, valid = client_secret_digest(secret), False
    for digest in digests:
        valid |= hmac.compare_digest(shown, digest)
    return valid


def _of_client(application_id: str | None, service_account_id: str | None) -> sa.ColumnElement[bool]:
    if (application_id is None) == (service_account_id is None):
        raise ValueError("a client is an application or a service account")
    if application_id is not None:
        return ClientSecret.application_id == application_id
    return ClientSecret.service_account_id == service_account_id


def revoke(token: PersonalAccessToken | ScimToken) -> None:
    """From now on the token is nobody's; its row stays, for the audit log names it."""
    if token.revoked_at is not None:
        return
    token.revoked_at = datetime.now(UTC)
    db.session().flush()
    if isinstance(token, PersonalAccessToken):
        _record("personal_access_token.revoked", "PersonalAccessToken", token.id, {"user_id": token.user_id})
    else:
        _record("scim_token.revoked", "ScimToken", token.id, ["revoked_at"])


def revoke_bootstrap() -> int:
    """Revoke every token that an earlier bootstrap made in the open unit's tenant; how many there were."""
    earlier = db.session().scalars(
        sa.select(PersonalAccessToken).where(PersonalAccessToken.bootstrap, PersonalAccessToken.revoked_at.is_(None))
    )
    count = 0
    for token in earlier:
        revoke(token)
        count += 1
    return count


def note_use(token_id: str, *, scim: bool) -> None:
    """Write down that a token of the open unit's tenant was shown just now."""
    table = ScimToken if scim else PersonalAccessToken
    db.session().execute(
        sa.update(table)
        .where(table.id == token_id)
        .values(last_used_at=sa.func.now(), updated_at=table.updated_at)
        .execution_options(synchronize_session=False)
    )


def _record(name: str, resource_type: str, resource_id: str, changed: Any) -> None:
    batch = events.Changes()
    batch.add(name, resource_type, resource_id, changed)
    events.record(batch)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, rest = divmod(number, 62)
        digits.append(_DIGITS[rest])
    return "".join(reversed(digits))


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), _CHECK)

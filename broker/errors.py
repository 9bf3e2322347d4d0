"""The typed refusals of the house.

Owns `Problem` and its kinds: a stable code, a public detail, a private note for the log. Services raise
them and know nothing of HTTP beyond the status each kind stands for; every door renders them in its own
language (RFC 9457, SCIM, OAuth, a page). A refusal that must be remembered is a returned result instead:
an exception rolls the counter back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar


class Problem(Exception):
    """A typed refusal. `detail` is shown to the caller, `note` only to the log."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str = "",
        *,
        note: str = "",
        errors: Mapping[str, Sequence[str]] | None = None,
        retry_after: int | None = None,
        scim_type: str | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.note = note
        self.errors = {name: list(messages) for name, messages in (errors or {}).items()}
        self.retry_after = retry_after
        self.scim_type = scim_type


class BadRequest(Problem):
    code, status, title = "bad_request", 400, "The request cannot be understood"


class ContextConflict(BadRequest):
    code, title = "context_conflict", "The tenant contexts of the request disagree"


class ContextRequired(BadRequest):
    code, title = "context_required", "This resource needs a tenant context"


class AuthenticationRequired(Problem):
    code, status, title = "authentication_required", 401, "Valid credentials are required"


class TokenExpired(AuthenticationRequired):
    code, title = "token_expired", "The credential has expired"


class Forbidden(Problem):
    code, status, title = "access_denied", 403, "This is not permitted"


class NotFound(Problem):
    code, status, title = "not_found", 404, "There is no such resource"


class MethodNotAllowed(Problem):
    code, status, title = "method_not_allowed", 405, "The resource does not take this method"


class Conflict(Problem):
    code, status, title = "conflict", 409, "The request conflicts with the present state"


class LimitExceeded(Conflict):
    code, title = "limit_exceeded", "A limit would be exceeded"


class OwnedByUpstream(Conflict):
    code, title = "owned_by_upstream", "An upstream owns this value"


class PreconditionFailed(Problem):
    code, status, title = "precondition_failed", 412, "The resource has changed meanwhile"


class PayloadTooLarge(Problem):
    code, status, title = "payload_too_large", 413, "The request body is too large"


class UnsupportedMediaType(Problem):
    code, status, title = "unsupported_media_type", 415, "The media type is not supported"


class ValidationFailed(Problem):
    code, status, title = "validation_failed", 422, "Some fields are not valid"


class NotAvailable(Problem):
    code, status, title = "not_available", 422, "This is not available"


class TooManyRequests(Problem):
    code, status, title = "too_many_requests", 429, "Too many requests"


class NotImplementedHere(Problem):
    code, status, title = "not_implemented", 501, "This is not implemented"


class UpstreamUnavailable(Problem):
    code, status, title = "upstream_unavailable", 503, "The upstream is unavailable"


class ServiceUnavailable(Problem):
    code, status, title = "service_unavailable", 503, "The service is temporarily unavailable"

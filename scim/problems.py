"""Problems as SCIM says them, and SCIM's exceptions as problems.

Owns the mapping between the house's `Problem` and RFC 7644 §3.12: status, scimType, and the error message's JSON. What
is a validation error elsewhere (422) and an upstream's property (409) is a 400 with a scimType here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import scim2_models as scim
from pydantic import ValidationError

from broker.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NotAvailable,
    NotFound,
    NotImplementedHere,
    OwnedByUpstream,
    PayloadTooLarge,
    PreconditionFailed,
    Problem,
    ValidationFailed,
)

ERROR = "urn:ietf:params:scim:api:messages:2.0:Error"
_KINDS: dict[int, type[Problem]] = {
    kind.status: kind
    for kind in (BadRequest, Forbidden, NotFound, Conflict, PreconditionFailed, PayloadTooLarge, NotImplementedHere)
}


def status_of(problem: Problem) -> tuple[int, str | None]:
    """The HTTP status and the scimType."""
    match problem:
        case OwnedByUpstream():
            return 400, problem.scim_type or "mutability"
        case ValidationFailed() | NotAvailable():
            return 400, problem.scim_type or "invalidValue"
        case PayloadTooLarge():
            return problem.status, problem.scim_type or "tooLarge"
    return problem.status, problem.scim_type


def body_of(problem: Problem) -> bytes:
    """The error message (RFC 7644 §3.12)."""
    status, scim_type = status_of(problem)
    message = {"schemas": [ERROR], "status": str(status)}
    if scim_type:
        message["scimType"] = scim_type
    return orjson.dumps({**message, "detail": problem.detail})


def refusal(error: scim.SCIMException | ValidationError) -> Problem:
    """What scim2-models or scim2-server refuses, as a problem that keeps its scimType."""
    if isinstance(error.__cause__, Problem):
        return error.__cause__
    if isinstance(error, scim.InvalidValueException) and isinstance(error.__cause__, ValidationError):
        error = error.__cause__  # a PATCH's, which quotes it as a programmer reads it
    if isinstance(error, ValidationError):
        error = scim.SCIMException.from_error(scim.Error.from_validation_errors(error)[0])
    described = error.to_error()
    kind = _KINDS.get(described.status or 400, BadRequest)
    return kind(described.detail or "", scim_type=described.scim_type)


@contextmanager
def spoken() -> Iterator[None]:
    """Problems raised inside leave as the exceptions scim2-server knows."""
    try:
        yield
    except Problem as problem:
        status, scim_type = status_of(problem)
        said = scim.Error(status=status, scim_type=scim_type, detail=problem.detail)
        raise scim.SCIMException.from_error(said) from problem

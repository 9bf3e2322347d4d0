"""The models of a tenant that has declared attributes of its own, beside the ones that all the others share.

Owns `Models`, how long those of a tenant are kept, and what is remembered with them. A request has read how often the
tenant's declarations have changed, so that every process sees a new one at once; a tenant without any costs nothing.
What our own models are is `scim.schemas`'.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import scim2_models as scim

from broker.attributes import CUSTOM, alike, fold, is_moment
from broker.context import Scope
from broker.db import IN_TENANT, hot
from broker.errors import BadRequest

from . import schemas

KEPT = 64
"""Tenants whose models are kept in a process; with the most attributes those of one take a megabyte."""

_LINES = (
    IN_TENANT  # noqa: S608 - constant text
    + """SELECT a.* FROM scope, LATERAL (
    SELECT resource_type, name, type, multi_valued, case_exact, uniqueness, mutability, filterable, canonical_values,
           description, number
    FROM custom_attributes WHERE tenant_id = scope.tenant ORDER BY number OFFSET 0) a"""
)

Found = TypeVar("Found")


class Line(NamedTuple):
    """One attribute that a tenant has declared."""

    resource_type: str
    name: str
    type: str
    many: bool
    exact: bool
    uniqueness: str
    mutability: str
    filterable: bool
    choices: list[str]
    description: str | None
    number: int

    @property
    def key(self) -> str:
        """Its flat key, which is its fully qualified name."""
        return f"{CUSTOM[self.resource_type]}:{self.name}"


class Models(Mapping[str, type[scim.Resource[Any]]]):
    """The model of each resource type, as one tenant has them."""

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self.lines: dict[str, list[Line]] = {}
        for line in lines:
            self.lines.setdefault(line.resource_type, []).append(line)
        self.extensions = {name: _extension(name, own) for name, own in self.lines.items()}
        extended = {name: schemas.extended(name, extension) for name, extension in self.extensions.items()}
        self._models = {**schemas.MODELS, **extended}
        self.memory: dict[Any, Any] = {}
        """What `remembered` functions keep of it; it goes when the models go."""

    def __getitem__(self, name: str) -> type[scim.Resource[Any]]:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    @cached_property
    def provider(self) -> scim.ScimProvider:
        return schemas.provider(self.extensions) if self.extensions else schemas.PROVIDER

    def check(self, resource_type: str, document: Mapping[str, Any]) -> None:
        """What no model says of a document that is to be stored. Raises BadRequest."""
        carried = document.get(CUSTOM.get(resource_type, ""), {})
        for line in self.lines.get(resource_type, ()):
            value = carried.get(line.name)
            for item in value if isinstance(value, list) else [] if value is None else [value]:
                _check(line, item)

    def keep_immutable(
        self, resource_type: str, before: Mapping[str, Any], document: dict[str, Any], *, complete: bool
    ) -> None:
        """Values that never change are as they were, however a client writes them: one that leaves such a value out
        leaves it alone, unless the document is `complete`. `before`: the resource as it is. Raises BadRequest with the
        scimType mutability."""
        for line in self.immutable(resource_type):
            urn = CUSTOM[resource_type]
            if (old := before.get(urn, {}).get(line.name)) is None:
                continue
            carried = document.get(urn, {})
            new = carried.get(line.name)
            if (new is None and complete) or (new is not None and not alike(line.type, old, new, exact=line.exact)):
                raise BadRequest(f"{line.name}: never changes once it has a value", scim_type="mutability")
            document[urn] = {**carried, line.name: old}

    def immutable(self, resource_type: str) -> list[Line]:
        """What never changes once it has a value."""
        return [line for line in self.lines.get(resource_type, ()) if line.mutability == "immutable"]


def _check(line: Line, item: Any) -> None:
    if line.type == "binary":
        try:
            base64.b64decode(item, validate=True)
        except (ValueError, binascii.Error):
            raise BadRequest(f"{line.name}: a value of octets is not base64", scim_type="invalidValue") from None
    elif line.type == "integer" and not -(2**63) <= item < 2**63:
        raise BadRequest(f"{line.name}: a whole number has 64 bits", scim_type="invalidValue")
    elif line.type == "dateTime" and not is_moment(item):
        raise BadRequest(f"{line.name}: a moment names its time zone and is one in each", scim_type="invalidValue")
    elif line.choices and not any(item == one if line.exact else fold(item) == fold(one) for one in line.choices):
        raise BadRequest(f"{line.name}: not one of the values it takes", scim_type="invalidValue")


def gathered(resource_type: str, said: Mapping[str, Any]) -> Mapping[str, Any]:
    """The attributes of a resource, with those under the tenant's own URN that are keys of their own in its object."""
    urn = CUSTOM.get(resource_type, "")
    apart = {key.strip()[len(urn) + 1 :]: key for key in said if key.strip().lower().startswith(f"{urn.lower()}:")}
    if not urn or not apart:
        return said
    rest = {key: value for key, value in said.items() if key not in apart.values()}
    own = next((key for key in rest if key.lower() == urn.lower()), urn)
    inside = rest.get(own)
    if inside is not None and not isinstance(inside, Mapping):
        return said
    return {**rest, own: {**(inside or {}), **{name: said[key] for name, key in apart.items()}}}


_URNS = tuple((of, urn.lower()) for of, urn in CUSTOM.items())


def check_names(resource_type: str, said: Mapping[str, Any], models: Models) -> None:
    """Nothing under a URN of the tenant's own is heard in vain: not in the attributes of a resource or an operation,
    nor in keys that are paths. Raises BadRequest for what is not declared of this type, or a part of what has none."""
    for key, value in said.items():
        lower = key.strip().lower()
        of, urn = next((one for one in _URNS if lower == one[1] or lower.startswith(f"{one[1]}:")), ("", ""))
        if not urn:
            continue
        if lower == urn and isinstance(value, Mapping):
            named = list(value)
        elif lower != urn:
            path = key.strip()[len(urn) + 1 :]
            named = [re.split(r"[.\[]", path, maxsplit=1)[0]]
            if "." in re.sub(r"\[.*\]", "", path, flags=re.S):
                raise BadRequest(f"{key:.200} is a part of what has none", scim_type="invalidPath")
        else:
            continue
        lines = models.lines.get(of, ()) if of == resource_type else ()
        declared = {"schemas", *(line.name.lower() for line in lines)}
        for name in named:
            if name.lower() not in declared:
                raise BadRequest(f"{CUSTOM[of]}:{name:.100} is not declared here", scim_type="invalidPath")


def _extension(resource_type: str, lines: Iterable[Line]) -> type[scim.Extension]:
    attributes = [
        schemas.simple(
            line.name,
            line.type,
            multiValued=line.many,
            caseExact=line.exact,
            mutability=line.mutability,
            uniqueness=line.uniqueness,
            description=line.description or f"{line.name}.",
            **({"referenceTypes": ["uri"]} if line.type == "reference" else {}),
            **({"canonicalValues": line.choices} if line.choices else {}),
        )
        for line in lines
    ]
    schema = scim.Schema(
        id=CUSTOM[resource_type],
        name=f"Custom{resource_type}",
        description="What the tenant has declared itself.",
        attributes=attributes,
    )
    return schemas.extension(schema)


OURS = Models()
"""Those of a tenant that has declared nothing."""

_kept: OrderedDict[str, tuple[int, Models]] = OrderedDict()
_lock = threading.Lock()


def models_of(scope: Scope) -> Models:
    """The models of the tenant, as of its latest declarations."""
    if scope.declarations == 0 or scope.tenant_id is None:
        return OURS
    with _lock:
        kept = _kept.get(scope.tenant_id)
        if kept is not None and kept[0] >= scope.declarations:
            _kept.move_to_end(scope.tenant_id)
            return kept[1]
    lines = [Line(*row) for row in hot(_LINES, {"tenant": scope.tenant_id})]
    models = Models(lines) if lines else OURS
    with _lock:
        _kept[scope.tenant_id] = (scope.declarations, models)
        _kept.move_to_end(scope.tenant_id)
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return models


def build(scope: Scope) -> None:
    """Have the models of the tenant at hand: who asks first after a declaration waits for them, no transaction does."""
    _ = models_of(scope).provider


def remembered(most: int) -> Callable[[Callable[..., Found]], Callable[..., Found]]:
    """A function of models, and of what else has a hash, that remembers with each models its `most` latest answers."""

    def decorate(function: Callable[..., Found]) -> Callable[..., Found]:
        def ask(models: Models, *rest: Any) -> Found:
            answers = models.memory.get(function)
            if answers is None:
                answers = models.memory.setdefault(function, lru_cache(maxsize=most)(partial(function, models)))
            found: Found = answers(*rest)
            return found

        return ask

    return decorate

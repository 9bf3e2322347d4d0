"""The matrix of requests: every route, everybody who may knock, other tenants' things; and what is wrong in answers.

`Matrix` makes the cases of one route and one principal, all of them or a sample in which places, ways of naming a
tenant and strangers take turns; `Judge` sends them and complains. What a refusal may look like is said here; who knocks
and what he may be shown is `holdings`', how a request is written `knocking`'s.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar
from urllib.parse import urlencode

from broker import ids
from broker.policy import Action
from tests.journeys import holdings
from tests.journeys.holdings import ID, SLUG, Holding, Principal, Realm
from tests.journeys.knocking import WAYS, Answer, Request, Template, Things, compose, knock, templates
from tests.journeys.ledger import Ledger

T = TypeVar("T")

_ECHO = re.compile(r'\{"id":"evt_\w+","name":"write\.refused".*?(?=\{"id":"evt_|$)', re.DOTALL)
"""What a tenant's audit log has of refused writes: ids that whoever was refused had named himself."""

REFUSED = frozenset({400, 403, 404, 409, 422, 501})
OWN = frozenset({Action.OWN_TOKEN_READ, Action.OWN_TOKEN_WRITE, Action.SESSION_READ, Action.SESSION_WRITE})
"""What everybody has of his own."""
FROM_ABOVE = frozenset({Action.TENANT_WRITE, Action.APPLICATION_SHARE, Action.DOMAIN_VERIFY})
"""What a tenant's own admin sees and may not do."""
OF_A_PARTNER = frozenset({Action.PARTNER_READ, Action.PARTNER_SETTINGS_READ, Action.PARTNER_SETTINGS_WRITE})

_PREFIX = {
    "user": "usr",
    "member": "usr",
    "group": "grp",
    "crowd": "grp",
    "unit": "ou",
    "agent": "agt",
    "application": "app",
    "assignment": "asg",
    "role assignment": "rol",
    "provider": "idp",
    "run": "run",
    "archive run": "arc",
    "target": "tgt",
    "scim token": "sct",
    "pat": "pat",
    "session": "ses",
    "domain": "dom",
    "custom attribute": "att",
    "service account": "usr",
    "tenant": "tnt",
    "partner": "prt",
}
NOBODY: Mapping[str, str] = {
    **{kind: ids.new(prefix) for kind, prefix in _PREFIX.items()},
    "membership": f"{ids.new('grp')}.{ids.new('usr')}",
    "slug": "nobody-t00000000",
    "client": "no-such-client",
}
"""Things that are not there at all: a stranger's must look no different."""


@dataclass(frozen=True)
class Case:
    """One request of one principal, and what he may be shown in answer. `refused`: it must be."""

    principal: Principal
    template: Template
    request: Request
    shown: frozenset[str]
    refused: bool
    twin: Request | None = None
    """The same request about things that are not there."""

    def __str__(self) -> str:
        return f"{self.principal.name}: {self.request.text[:400]}"


class Matrix:
    """Generates the cases of a template and a principal."""

    def __init__(self, realm: Realm, *, full: bool) -> None:
        self.realm = realm
        self.full = full
        self._turns: Counter[str] = Counter()

    def cases(self, template: Template, principal: Principal) -> Iterator[Case]:
        match template.route.context:
            case "tenant" | "own" | "slug":
                yield from self._in_tenants(template, principal)
            case "partner":
                yield from self._at_partners(template, principal)
            case "self":
                yield from self._with_himself(template, principal)
            case _:
                yield from self._anywhere(template, principal)

    def _reach(self, template: Template, principal: Principal) -> frozenset[str]:
        return principal.reach if template.route.door in principal.doors else frozenset()

    def _in_tenants(self, template: Template, principal: Principal) -> Iterator[Case]:
        reach = self._reach(template, principal)
        own = template.route.action in OWN and "api" in principal.doors
        if own and not reach:
            yield from self._with_strangers_things(template, principal, principal.home, frozenset())
        for name in self._some(1, sorted(reach), f"{template} at"):
            yield from self._with_strangers_things(template, principal, name, self.realm.shown_at(name))
            yield from self._from_above(template, principal, name)
        elsewhere = set(self.realm.holdings) - reach - ({principal.home} if own else set())
        for name in self._some(2, sorted(elsewhere), f"{template} elsewhere"):
            yield from self._elsewhere(template, principal, name)
        if template.route.context == "tenant" and "<tenant_id>" not in template.rule and len(reach) != 1:
            nowhere = compose(template, token=principal.token, place=None, way="", path=NOBODY)
            yield Case(principal, template, nowhere, frozenset(), refused=True)

    def _with_strangers_things(
        self, template: Template, principal: Principal, place: str, shown: frozenset[str]
    ) -> Iterator[Case]:
        """Where he may act: things of others are not there."""
        here = self.realm[place]
        strangers = {
            name: dict(holding.things) for name, holding in self.realm.holdings.items() if name != place or not shown
        }
        if template.path_kinds.get("application_id") or template.rule == "/scim-targets":
            for owner, (keeper, *_) in holdings.SHARED.items():
                if owner not in shown:
                    home = self.realm[keeper]
                    strangers[owner] = {**home.things, "application": home["shared application"]}
        strangers = {name: strangers[name] for name in self._some(2, sorted(strangers), f"{template} meets")}
        for way in self._ways(template, here, principal):
            place_named = here if way else None
            where = {"token": principal.token, "place": place_named, "way": way}
            if not template.names_things:
                if template.method == "GET":
                    every = "limit=200" if template.route.deed.about.listed else ""
                    looking = compose(template, **where, path=NOBODY, query=every)
                    yield Case(principal, template, looking, shown, refused=not template.served)
                if template.rule == "/events":
                    lines = (("Accept", "application/x-ndjson"),)
                    looking = compose(template, **where, path=NOBODY, query="limit=5", headers=lines)
                    yield Case(principal, template, looking, shown, refused=False)
                for query, nothing in self._queries(template, strangers):
                    looking = compose(template, **where, path=NOBODY, query=query)
                    twin = compose(template, **where, path=NOBODY, query=nothing)
                    yield Case(principal, template, looking, shown, refused=False, twin=twin)
                continue
            for things in strangers.values():
                if template.path_kinds:
                    ask = compose(template, **where, path=things)
                    twin = compose(template, **where, path=NOBODY)
                    yield Case(principal, template, ask, shown, refused=True, twin=twin)
                refuses = not (template.body.passed_over and principal.token.startswith("sks_"))
                if (template.body.foreign and refuses) or "other_tenant_id" in template.path_kinds:
                    ask = compose(template, **where, path=here.things, body=things)
                    twin = compose(template, **where, path=here.things, body=NOBODY)
                    yield Case(principal, template, ask, shown, refused=True, twin=twin)

    def _queries(self, template: Template, strangers: Mapping[str, Things]) -> Iterator[tuple[str, str]]:
        """Looking for a stranger's things in one's own lists; and for those that are not there."""
        for things in strangers.values():
            for name, kind in template.filters.items():
                yield urlencode({name: things[kind]}), urlencode({name: NOBODY[kind]})
            if template.route.context == "slug" and template.served and template.rule in ("/Users", "/Groups"):
                for path in ("id", "members.value" if template.rule == "/Groups" else "groups.value"):
                    kind = "group" if path == "groups.value" or (path, template.rule) == ("id", "/Groups") else "user"
                    yield (
                        urlencode({"filter": f'{path} eq "{things[kind]}"'}),
                        urlencode({"filter": f'{path} eq "{NOBODY[kind]}"'}),
                    )

    def _from_above(self, template: Template, principal: Principal, place: str) -> Iterator[Case]:
        """What a tenant's own admin leaves to those above him, and a reader to writers, even of his own things."""
        reads = template.route.action.endswith(".read")
        above = principal.role == "tenant_admin" and template.route.action in FROM_ABOVE
        if (above or (principal.name.endswith("read only") and not reads)) and template.served:
            here = self.realm[place]
            for way in self._ways(template, here, principal):
                ask = compose(template, token=principal.token, place=here, way=way or "header", path=here.things)
                yield Case(principal, template, ask, self.realm.shown_at(place), refused=True)

    def _elsewhere(self, template: Template, principal: Principal, place: str) -> Iterator[Case]:
        """Where he may not act: neither with what is there nor with his own."""
        there, home = self.realm[place], self.realm[principal.home]
        for way in self._ways(template, there, None):
            where = {"token": principal.token, "way": way}
            twin = compose(template, **where, place=NOBODY, path=NOBODY)
            ask = compose(template, **where, place=there, path=there.things)
            # A person may act nowhere, so his own tenant is named like any other and is no secret to him.
            known = place == principal.home
            yield Case(principal, template, ask, frozenset(), refused=True, twin=None if known else twin)
            if template.names_things and not known and self._some(1, [False] * 3 + [True], "his own") != [False]:
                ask = compose(template, **where, place=there, path=home.things)
                yield Case(principal, template, ask, frozenset(), refused=True, twin=twin)

    def _at_partners(self, template: Template, principal: Principal) -> Iterator[Case]:
        reach = self._reach(template, principal)
        for name, partner_id in self.realm.partners.items():
            own = principal.role == "partner_admin" and f"home {name}" in reach
            if principal.role == "super_admin" or (own and template.route.action in OF_A_PARTNER):
                continue
            ask = compose(template, token=principal.token, place={"partner": partner_id}, way="path", path=NOBODY)
            twin = compose(template, token=principal.token, place=NOBODY, way="path", path=NOBODY)
            shown = frozenset({f"partner {name}", f"partner {name}'s id"} if own else ())
            yield Case(principal, template, ask, shown, refused=True, twin=None if own else twin)

    def _anywhere(self, template: Template, principal: Principal) -> Iterator[Case]:
        """Routes of the platform, and lists of wherever one has a role."""
        reach = self._reach(template, principal)
        role = principal.role or ("tenant_admin" if reach and "upstream" not in principal.name else "")
        if template.route.context == "platform":
            if role != "super_admin":
                ask = compose(template, token=principal.token, place=None, way="", path=NOBODY)
                yield Case(principal, template, ask, frozenset(), refused=True)
            return
        shown = frozenset(chain.from_iterable(self.realm.shown_at(name) for name in reach))
        if template.method == "GET":
            allowed = bool(role) and (template.rule == "/tenants" or role != "tenant_admin")
            for partner_id in (None, *self.realm.partners.values()):
                named = () if partner_id is None else (("X-Partner-ID", partner_id),)
                ask = compose(template, token=principal.token, place=None, way="", path=NOBODY, headers=named)
                yield Case(principal, template, ask, shown, refused=not allowed)
            for thing in [*self.realm.partners.values(), *(one.slug for one in self.realm.holdings.values())]:
                name = "partner_id" if thing.startswith("prt_") else "slug"
                if name in template.route.deed.about.query:
                    query = urlencode({name: thing, "limit": 200})
                    ask = compose(template, token=principal.token, place=None, way="", path=NOBODY, query=query)
                    yield Case(principal, template, ask, shown, refused=not allowed)
        for name, partner_id in self.realm.partners.items():
            if template.method == "POST" and (role, name) not in {
                ("super_admin", "one"),
                ("super_admin", "two"),
                ("partner_admin", principal.home.removeprefix("home ")),
            }:
                ask = compose(
                    template, token=principal.token, place=None, way="", path=NOBODY, body={"partner": partner_id}
                )
                twin = compose(template, token=principal.token, place=None, way="", path=NOBODY, body=NOBODY)
                yield Case(principal, template, ask, frozenset(), refused=True, twin=twin)

    def _with_himself(self, template: Template, principal: Principal) -> Iterator[Case]:
        """Routes about whoever asks: he is shown himself, and a stranger's token is no token."""
        asking = template.route.action is Action.INTROSPECT
        may = principal.token.startswith("skt_") and not (asking and principal.name.endswith(" only"))
        shown = self.realm.shown_at(principal.home) if may else frozenset()
        where = {"token": principal.token, "place": None, "way": "", "path": NOBODY}
        yield Case(principal, template, compose(template, **where), shown, refused=not may)
        if asking:
            twin = compose(template, **where)
            abroad = [one.token for one in self.realm.principals.values() if one.home != principal.home]
            for token in self._some(2, abroad, f"{template} of"):
                ask = compose(template, **where, body={"token": token})
                yield Case(principal, template, ask, frozenset(), refused=not may, twin=twin)

    def _ways(self, template: Template, there: Holding, principal: Principal | None) -> Iterator[str]:
        """How the tenant is named; empty is not at all, which means the credential's own."""
        ways = list(WAYS[template.route.context])
        own = principal is not None and principal.home == there.name and "<tenant_id>" not in template.rule
        narrow = principal is not None and principal.role not in ("partner_admin", "super_admin")
        if own and template.route.context in ("tenant", "own") and (narrow or template.route.context == "own"):
            ways.append("")
        yield from self._some(1, ways, f"{template} by")

    def _some(self, count: int, choices: Sequence[T], what: str) -> Sequence[T]:
        """All of the choices, or everyday so many of them, in turns."""
        if self.full or len(choices) <= count:
            return choices
        start = self._turns[what]
        self._turns[what] += count
        return [choices[(start + step) % len(choices)] for step in range(count)]


@dataclass
class Judge:
    """Sends the cases and says what is wrong with the answers."""

    realm: Realm
    ledger: Ledger
    asked: int = 0
    complaints: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    _twins: dict[Request, str] = field(default_factory=dict)

    def ask(self, request: Request) -> Answer:
        self.asked += 1
        return knock(self.realm.app, request)

    def judge(self, case: Case) -> None:
        answer = self.ask(case.request)
        self.statuses[answer.status] += 1
        for complaint in self._complaints(case, answer):
            self.complaints.append(f"{complaint}\n    {case}\n    → {answer.status} {answer.body[:300].decode()}")

    def _complaints(self, case: Case, answer: Answer) -> Iterator[str]:
        if answer.status not in REFUSED and (case.refused or answer.status != 200):
            yield "not refused" if case.refused else "neither an answer nor a refusal"
        if leaked := self.leaked(case, answer):
            yield f"shows {leaked}"
        if changed := self.ledger.changed():
            yield f"changed {changed}"
        if case.twin is not None and plain(answer) != self._said_of_nothing(case.twin):
            yield f"differs from what is said of nothing: {self._said_of_nothing(case.twin)[-300:]}"

    def leaked(self, case: Case, answer: Answer) -> dict[str, str]:
        found = self.realm.owners_in(_ECHO.sub("", answer.text))
        if not found:
            return found
        asked = case.request.text
        return {name: owner for name, owner in found.items() if owner not in case.shown and name not in asked}

    def _said_of_nothing(self, request: Request) -> str:
        if request not in self._twins:
            self._twins[request] = plain(self.ask(request))
        return self._twins[request]


def plain(answer: Answer) -> str:
    """An answer without what differs from one request to the next."""
    headers = [f"{name}: {value}" for name, value in answer.headers if name != "X-Request-ID"]
    text = "\n".join([str(answer.status), *headers, answer.body.decode()])
    text = re.sub(r'"request_id":"[^"]*"', "", text)
    return SLUG.sub("<slug>", ID.sub("<id>", re.sub(r"Content-Length: \d+", "", text)))


RIGHTFUL = frozenset({"a person of acme", "acme's admin", "partner one's admin", "super admin", "acme's upstream"})
"""Whom policy lets pass somewhere, so that the walls are all that is left."""


def play(realm: Realm, ledger: Ledger, *, full: bool, only: frozenset[str] | None = None, method: str = "") -> Judge:
    matrix, judge = Matrix(realm, full=full), Judge(realm, ledger)
    ledger.changed()
    for template in templates(realm.app):
        if method not in ("", template.method) or not (full or template.served or template.method in ("GET", "POST")):
            continue
        for principal in realm.principals.values():
            if only is None or principal.name in only:
                for case in matrix.cases(template, principal):
                    judge.judge(case)
    return judge


def report(judge: Judge) -> str:
    return f"{len(judge.complaints)} of {judge.asked}:\n" + "\n".join(judge.complaints[:40])

"""Signing in: the application, acme's identity provider or its directory, and a person's browser between them.

Owns the scenes in which somebody known from the Active Directory comes in, through another upstream (`Federated`) or
with the password the directory knows (`ByPassword`), and is shut out again. The rest is the stories'.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .application import AUDIENCE
from .asking import Door
from .browser import Browser
from .telling import Step

if TYPE_CHECKING:
    from .play import Play

TEAM = "Engineers"
SUBJECT = "zoe-7f3a9c21"
"""What acme's identity provider calls the person; it means nothing anywhere else."""
VISITOR = "visitor-19d80b4e"
"""What it calls the one whom the audience may be, once the story is over."""

NAMES = "urn:scaikey:params:scim:schemas:extension:scaikey:1.0:Group"


@dataclass
class SigningIn:
    """`person` signs in to the application at `port`."""

    story: Play
    person: str
    port: int
    application: Door = field(init=False)
    browser: Browser = field(default_factory=Browser)

    def enter(self) -> None:
        """The browser's way from the Intranet's link through ScaiKey, as far as it comes."""
        raise NotImplementedError

    def assign(self) -> None:
        """The team may use the application."""
        groups = self.story.acme_scim.resources("Groups", "&attributes=displayName")
        shown_as = {one["displayName"]: one["id"] for one in groups}
        assigned = {"principal_id": shown_as[TEAM], "roles": ["editor"]}
        self.story.acme.post(f"/applications/{self.story.intranet['id']}/assignments", assigned)

    def open(self) -> None:
        """The application begins."""
        client = self.story.intranet
        self.application = self.story.stage.start_application(
            self.port, self.issuer, client["client_id"], client["client_secret"]
        )
        self.story.stage.wait_for_answer(self.application, "/who")

    @property
    def issuer(self) -> str:
        return f"{self.story.stage.base_url}/api/v1/auth/tenants/acme"

    def sign_in(self) -> None:
        person = self.person
        with self.story.telling.step(f"{person} signs in there, and the Intranet knows who it is") as step:
            people, event = self.story.acme_scim.total("Users"), self.story.last_event()
            self.enter()
            who = self.application.get("/who")
            token = who["access"]
            step.expect("", who["problem"], "what the Intranet complains of")
            step.expect(person, token.get("preferred_username"), "preferred_username")
            known = self.story.acme_scim.get(f"/Users/{token['sub']}")
            step.expect(person, known["userName"], "userName of the token's subject, asked of SCIM")
            hosts = len(self.browser.hosts)
            names = self.token_names()
            step.same(
                {names[group] for group in self.groups_of(person)}, token.get("groups", []), "groups in the token"
            )
            step.expect(["editor"], token.get("roles"), "roles in the token")
            step.expect((self.issuer, AUDIENCE), (token.get("iss"), token.get("aud")), "issuer and audience")
            step.expect(people, self.story.acme_scim.total("Users"), "people of acme")
            step.expect(False, event == self.story.last_event(), "whether the sign-in left no event")
            self.renew(step)
            step.fact(
                f"by {hosts} servers and back; RS256 verified from the published keys; the same "
                f"person as in the Active Directory ({token['sub']}), groups {', '.join(sorted(token['groups']))}; "
                "roles editor; the refresh token was renewed"
            )
            self.story.wait_for_push(step)

    def shut_out(self, step: Step) -> None:
        """Who was disabled in the directory has no way in any more, though his tokens have hours to live."""
        self.browser.open(self.application.base_url)
        self.browser.press("/refresh")
        problem = self.application.get("/who")["problem"]
        step.expect("invalid_grant", problem.partition(":")[0], "renewing the token")
        self.enter()
        place = urlsplit(self.browser.url).netloc
        step.expect((urlsplit(self.story.stage.base_url).netloc, 403), (place, self.browser.status), "who stops him")
        step.expect(True, "disabled" in self.browser.text, "whether the page says why")
        step.fact(
            f"{self.person} is out at once: refresh token and a new sign-in are refused before anything was pushed"
        )

    def renew(self, step: Step) -> None:
        before = self.application.get("/who")["access"]["jti"]
        self.browser.open(self.application.base_url)
        self.browser.press("/refresh")
        after = self.application.get("/who")
        step.expect(("", False), (after["problem"], after["access"]["jti"] == before), "renewed token")

    def token_names(self) -> dict[str, str]:
        """What tokens call a group, by its name in the directory."""
        groups = self.story.acme_scim.resources("Groups", f"&attributes=displayName,{NAMES}:tokenName")
        return {group["displayName"]: group[NAMES]["tokenName"] for group in groups}

    def groups_of(self, person: str) -> set[str]:
        """Those that name the person, and those above them."""
        members = self.story.organisation.active_members()
        found: set[str] = set()
        new = {person}
        while new:
            new = {name for name, inside in members.items() if inside & new} - found
            found |= new
        return found


@dataclass
class Federated(SigningIn):
    """`visitor` may sign in after the story."""

    visitor: str = field(kw_only=True)

    def federate(self) -> None:
        """acme has an identity provider already; its people shall need no other."""
        subjects = {SUBJECT: self.person, VISITOR: self.visitor}
        upstream = self.story.stage.start_upstream(
            [{"sub": subject, "preferred_username": name} for subject, name in subjects.items()]
        )
        with self.story.telling.step("acme's people shall sign in with acme's own identity provider") as step:
            self.story.stage.wait_for_answer(upstream, "/.well-known/openid-configuration")
            wanted = {
                "kind": "oidc",
                "name": "acme's sign-in",
                "config": {"issuer": upstream.base_url, "client_id": "scaikey", "client_secret": secrets.token_hex(16)},
                "sign_in": True,
                "match": [{"claim": "preferred_username", "attribute": "userName"}],
                "match_within": [self.story.provider],
            }
            provider = self.story.acme.post("/identity-providers", wanted)["id"]
            verdict = self.story.acme.post(f"/identity-providers/{provider}/test")
            for one in verdict["steps"]:
                step.expect(True, one["ok"], f"{one['name']}: {one['found']} {one['mend']}")
            self.assign()
            step.fact(
                f"oidc-provider-mock at {upstream.base_url}, {len(verdict['steps'])} checks passed; group "
                f"{TEAM} may use the Intranet as editor"
            )

    def enter(self) -> None:
        self.browser.open(f"{self.application.base_url}/sign-in")
        for _ in range(4):
            asked = set().union(*(form.asks for form in self.browser.forms()), set())
            if "sub" in asked:
                self.browser.submit(sub=SUBJECT)
            elif "provider" in asked:
                self.browser.submit(provider="")
            else:
                return


@dataclass
class ByPassword(SigningIn):
    """On ScaiKey's own page, which asks the directory."""

    password: str = field(kw_only=True)

    def refuse_wrong(self) -> None:
        with self.story.telling.step("The directory is asked about a wrong password, which opens nothing") as step:
            self.try_password("not the password")
            asked = set().union(*(form.asks for form in self.browser.forms()), set())
            step.expect(True, "password" in asked, "whether the page asks again")
            step.expect({}, self.application.get("/who")["access"], "who is signed in")
            step.fact("ScaiKey's own page asks again, in the words that a name nobody has gets, too")

    def enter(self) -> None:
        self.try_password(self.password)

    def try_password(self, password: str) -> None:
        self.browser.open(f"{self.application.base_url}/sign-in")
        for _ in range(2):
            asked = set().union(*(form.asks for form in self.browser.forms()), set())
            if "password" in asked:
                self.browser.submit(username=self.person, password=password)
                return
            if "username" in asked:
                self.browser.submit(username=self.person)

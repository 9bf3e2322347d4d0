"""What people are told when they may not go on: the words for each reason code of the flows.

Who decides on a reason is the flow; how the page looks is `faces`. No text says more than the person may know.
"""

from __future__ import annotations

from dataclasses import dataclass

from flask import Response

from broker.pages import faces, words
from broker.pages.words import gettext as _


@dataclass(frozen=True)
class Refusal:
    title: str
    text: str
    status: int


def turned_away(
    brand: faces.Brand | None,
    reason: str,
    *,
    application: str | None = None,
    upstream: str | None = None,
    back: str | None = None,
    request_id: str | None = None,
) -> Response:
    """The page for a reason code; a reason without words of its own gets general ones."""
    if brand is not None:
        words.speak(brand.language)
    said = explain(reason, application=application, upstream=upstream)
    return faces.refused(brand, title=said.title, text=said.text, status=said.status, back=back, request_id=request_id)


def explain(reason: str, *, application: str | None = None, upstream: str | None = None) -> Refusal:
    """Title, text and status for a reason code."""
    named = {
        "application": application or _("this application"),
        "upstream": upstream or _("your organisation's sign-in service"),
    }
    said = _refusals().get(reason) or Refusal(
        _("You cannot go on"), _("Signing in was refused.") + " " + _("Ask your administrator."), 403
    )
    text = said.text % named
    # A name keeps its own first letter, our words for a missing one begin the sentence.
    unnamed = any(
        text.startswith(named[one])
        for one, given in (("application", application), ("upstream", upstream))
        if not given
    )
    return Refusal(said.title, text[:1].upper() + text[1:] if unnamed else text, said.status)


def _refusals() -> dict[str, Refusal]:
    ask = _("Ask your administrator.")
    disabled = Refusal(_("Your account is disabled"), _("You cannot sign in with it at present.") + " " + ask, 403)
    closed = Refusal(
        _("This application is not available"),
        _("%(application)s is not open to your organisation at present.") + " " + ask,
        403,
    )
    ended = Refusal(_("Your session has ended"), _("Go back to the application and sign in again."), 403)
    return {
        "tenant_suspended": Refusal(
            _("Signing in is suspended"), _("Your organisation's access is suspended at present.") + " " + ask, 403
        ),
        "user_disabled": disabled,
        "application_disabled": closed,
        "no_access": closed,
        "not_assigned": Refusal(
            _("You have no access yet"),
            _("You are signed in, but %(application)s has not been assigned to you.") + " " + ask,
            403,
        ),
        "provider_disabled": Refusal(
            _("This way of signing in is closed"),
            _("Signing in with %(upstream)s is switched off at present. Try another way.") + " " + ask,
            403,
        ),
        "session_ended": ended,
        "grant_ended": ended,
        "unknown_person": Refusal(
            _("You are not known here"),
            _("%(upstream)s has confirmed who you are, but there is no account for you here.") + " " + ask,
            403,
        ),
        "ambiguous": Refusal(
            _("Your account could not be found for certain"),
            _("What %(upstream)s says about you does not lead to one account alone, so nobody was signed in.")
            + " "
            + ask,
            403,
        ),
        "upstream_refused": Refusal(
            _("Signing in was refused"), _("%(upstream)s did not confirm your sign-in. Try again."), 403
        ),
        "upstream_unavailable": Refusal(
            _("Your sign-in service does not answer"),
            _("%(upstream)s cannot be reached at present. Try again in a few minutes."),
            503,
        ),
        "upstream_misconfigured": Refusal(
            _("Your sign-in service is not set up right"),
            _("%(upstream)s cannot be used as it is configured.") + " " + ask,
            502,
        ),
        "account_disabled": Refusal(
            _("Your account is disabled"), _("%(upstream)s does not let you in with it at present.") + " " + ask, 403
        ),
        "account_expired": Refusal(
            _("Your account has expired"), _("%(upstream)s does not let you in with it any more.") + " " + ask, 403
        ),
        "account_locked": Refusal(
            _("Your account is locked"),
            _("Too many wrong passwords were tried. Try again later.") + " " + ask,
            403,
        ),
        "password_expired": Refusal(
            _("Your password has expired"),
            _("Change it where you usually do, at your computer at work for example. Then sign in with the new one."),
            403,
        ),
        "password_must_change": Refusal(
            _("Choose a password of your own first"),
            _("Yours has to be changed where you usually do that, at your computer at work for example.")
            + " "
            + _("Then sign in with the new one."),
            403,
        ),
        "not_at_this_time": Refusal(
            _("You cannot sign in at this time"), _("%(upstream)s lets you in at other hours.") + " " + ask, 403
        ),
        "not_from_here": Refusal(
            _("You cannot sign in from here"),
            _("%(upstream)s lets you in on certain computers alone.") + " " + ask,
            403,
        ),
        "flow_expired": Refusal(
            _("This page has expired"),
            _("It was open for too long, or was used already. Go back to the application and sign in again."),
            400,
        ),
        "cookies_missing": Refusal(
            _("Your browser keeps no cookies for this page"),
            _("Signing in needs them. Allow cookies for this site, then start again from the application."),
            400,
        ),
        "forged": Refusal(
            _("This request did not come from our page"),
            _("For your safety it was not carried out. Go back to the application and sign in again."),
            400,
        ),
        "bad_request": Refusal(
            _("The application's request is not valid"),
            _("%(application)s sent a request that cannot be answered.") + " " + ask,
            400,
        ),
    }

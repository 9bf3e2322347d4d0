"""`/t/{slug}/sign-out`: really? Then the session ends here, and at the upstream where that can be.

What an application asks for at the end-session endpoint of its issuer is `oidc.logout`'s; both end by `endings`.
"""

from __future__ import annotations

from flask import Response

from broker import endings
from broker.context import Scope, acting, current_request_id
from broker.db import unit
from broker.doors import About
from broker.pages import faces
from broker.pages.door import door
from broker.pages.tenant import brand, of_tenant, see_other, turned_away
from broker.policy import Action
from broker.sign_in import sessions, upstream

PURPOSE = "sign-out"
_HIDDEN = About(announced=False)


@door.route("/t/<tenant_slug>/sign-out", action=Action.NOTHING_SECRET, context="none", about=_HIDDEN)
@of_tenant
def show_sign_out(scope: Scope) -> Response:
    """Really sign out?"""
    live = sessions.of_request(scope.slug or "")
    if live is None:
        return see_other(f"/t/{scope.slug}/signed-out")
    with unit(scope):
        look = brand(scope)
    return faces.logout(
        look,
        action=f"/t/{scope.slug}/sign-out",
        csrf=live.csrf(PURPOSE),
        user=live.user_name,
        back=f"/t/{scope.slug}/apps",
    )


@door.route("/t/<tenant_slug>/sign-out", methods=["POST"], action=Action.NOTHING_SECRET, context="none", about=_HIDDEN)
@of_tenant
def take_sign_out(scope: Scope) -> Response:
    """End the session of this browser, here and then at the upstream."""
    live = sessions.of_request(scope.slug or "")
    if live is None:
        return see_other(f"/t/{scope.slug}/signed-out")
    if not live.proven(PURPOSE):
        return turned_away(scope, "forged", back=f"/t/{scope.slug}/sign-out")
    with acting(live.actor(), current_request_id()), unit(scope):
        endings.end_session(live.id, "signed_out")
    away = upstream.begin_sign_out(live, upstream.signed_out_url(scope))
    if away is None:
        answer = see_other(f"/t/{scope.slug}/signed-out")
    elif away.form is not None:
        answer = faces.post_form(away.url, away.form)
    else:
        answer = faces.onward(None, url=away.url)
    sessions.clear_cookie(answer, scope.slug or "")
    return answer


@door.route("/t/<tenant_slug>/signed-out", action=Action.NOTHING_SECRET, context="none", about=_HIDDEN)
@of_tenant
def show_signed_out(scope: Scope) -> Response:
    """You are signed out."""
    if sessions.of_request(scope.slug or "") is not None:
        return see_other(f"/t/{scope.slug}/sign-out")
    with unit(scope):
        look = brand(scope)
    return faces.logged_out(look, sign_in=f"/t/{scope.slug}/sign-in", back=None)

"""The words on pages, in the reader's language: gettext, for templates and for Python alike.

English is in the sources; a catalogue is `locale/<language>/LC_MESSAGES/scaikey.mo`. Which language a request is
answered in is decided here, once. What a page says is the page's.
"""

from __future__ import annotations

import gettext as catalogues
from functools import cache
from pathlib import Path

from flask import Flask, g, has_request_context, request

DOMAIN = "scaikey"
_LOCALE = Path(__file__).parent / "locale"
LANGUAGES = ("en", *sorted(path.parts[-3] for path in _LOCALE.glob(f"*/LC_MESSAGES/{DOMAIN}.mo")))


def language() -> str:
    """The language of this answer: as chosen by `speak`, else the best of those the browser asks for."""
    if not has_request_context():
        return LANGUAGES[0]
    asked = (choice for tag, quality in request.accept_languages if quality for choice in (tag, tag.partition("-")[0]))
    chosen: str = g.get("scaikey_language") or next((tag for tag in asked if tag in LANGUAGES), LANGUAGES[0])
    return chosen


def speak(language: str) -> None:
    """From here on this answer is in `language`; English when there is no catalogue for it."""
    g.scaikey_language = language if language in LANGUAGES else LANGUAGES[0]


@cache
def translations(language: str) -> catalogues.NullTranslations:
    return catalogues.translation(DOMAIN, _LOCALE, [language], fallback=True)


def gettext(message: str, **values: object) -> str:
    """`message` in the reader's language; `%(name)s` in it stands for a value."""
    said = _plain(message)
    return said % values if values else said


def ngettext(singular: str, plural: str, number: int, **values: object) -> str:
    """As `gettext`, for something counted; `%(num)d` is the number."""
    return _counted(singular, plural, number) % {"num": number, **values}


def install(app: Flask) -> None:
    """`{% trans %}` and `_()` in the app's templates."""
    app.jinja_env.add_extension("jinja2.ext.i18n")
    app.jinja_env.install_gettext_callables(_plain, _counted, newstyle=True)  # type: ignore[attr-defined]
    app.jinja_env.policies["ext.i18n.trimmed"] = True
    app.jinja_env.globals["language"] = language


def _plain(message: str) -> str:
    return translations(language()).gettext(message)


def _counted(singular: str, plural: str, number: int) -> str:
    return translations(language()).ngettext(singular, plural, number)

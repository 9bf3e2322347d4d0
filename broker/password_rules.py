"""What a password must be: long enough, not among those everybody tries, and more than what is known of the person.

There are no rules of composition. The list of common passwords is zxcvbn's; what was made of one by repeating it or by
adding digits and signs is as common.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from .attributes import fold

LEAST_OF_ITS_OWN = 8
"""Characters that are left without the words everybody knows."""
_LEAST_WORD = 4
_DIGITS = "1234567890" * 3


def complaint(password: str, min_length: int, own_words: Iterable[str]) -> str | None:
    """What is wrong with a password, in a sentence; None when nothing is. `own_words`: names and addresses of the
    person and of the organisation."""
    if len(password) < min_length:
        return f"Needs at least {min_length} characters."
    folded = fold(password)
    if _common(folded):
        return "Is among the passwords that are tried first."
    rest = folded
    for word in sorted({part for known in own_words for part in _parts(known)}, key=len, reverse=True):
        rest = rest.replace(word, "")
    if rest != folded and len(rest) < LEAST_OF_ITS_OWN:
        return "Is little more than a name or an address that everybody knows."
    return None


def _common(folded: str) -> bool:
    bare = folded.strip("0123456789 !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    unit = folded[: (folded + folded).find(folded, 1)]
    if len(unit) < len(folded) and (len(unit) < LEAST_OF_ITS_OWN or unit in _list()):
        return True
    return folded in _list() or bare in _list() or folded in _DIGITS or folded[::-1] in _DIGITS


def _parts(word: str) -> set[str]:
    folded = fold(word)
    return {part for part in (folded, *re.split(r"[\s@.,_+-]+", folded)) if len(part) >= _LEAST_WORD}


@lru_cache(maxsize=1)
def _list() -> frozenset[str]:
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # type: ignore[import-untyped]  # large, and needed only when somebody sets a password

    return frozenset(fold(word) for word in FREQUENCY_LISTS["passwords"])

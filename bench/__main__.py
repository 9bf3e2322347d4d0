"""`python -m bench [imports] [scim] [push] [tokens] [sync] [fairness]`: by hand, on a quiet machine."""

from __future__ import annotations

import sys

from . import fairness, imports, push, scim, sync, tokens

BENCHES = {
    "imports": imports.main,
    "scim": scim.main,
    "push": push.main,
    "tokens": tokens.main,
    "sync": sync.main,
    "fairness": fairness.main,
}


def main(wanted: list[str]) -> int:
    names = [name for name in wanted if name in BENCHES] or list(BENCHES)
    for name in names:
        BENCHES[name]([word for word in wanted if word not in BENCHES])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

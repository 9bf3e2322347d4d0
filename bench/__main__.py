"""`python -m bench [imports] [scim] [tokens]`: run by hand, on a quiet machine; both sides interleaved in one go."""

from __future__ import annotations

import sys

from . import imports, scim, tokens

BENCHES = {"imports": imports.main, "scim": scim.main, "tokens": tokens.main}


def main(wanted: list[str]) -> int:
    names = [name for name in wanted if name in BENCHES] or list(BENCHES)
    for name in names:
        BENCHES[name]([word for word in wanted if word not in BENCHES])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Requests that vendors publish for SCIM servers, fetched as data when the other parties are installed.

Owns which, of which version, and that a file is what it was when it was looked at. None of it is part of this
repository. Run with the folder to put them into.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from urllib.request import urlopen

PUBLISHED = {
    "microsoft.json": (
        "https://raw.githubusercontent.com/AzureAD/SCIMReferenceCode"
        "/d445ef901981fef684a220fe8cf6c97b588600fd/PostmanCollection.json",
        "36ee6b9fb355cd6d438b7012ce266c05496caf494db4cb2a2be832f91fa56ccf",
    )
}
"""Microsoft's collection for Postman, from its reference code for Entra ID (MIT licence)."""


def fetch(folder: Path) -> None:
    """Raises OSError, and ValueError for a file that is another one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (url, digest) in PUBLISHED.items():
        with urlopen(url, timeout=30) as answer:
            found = answer.read()
        if hashlib.sha256(found).hexdigest() != digest:
            raise ValueError(f"{url} is not what it was")
        (folder / name).write_bytes(found)


if __name__ == "__main__":
    try:
        fetch(Path(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(str(error))

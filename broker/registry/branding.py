"""Pictures people give us, made into pictures of our own.

What comes is decoded under tight limits and drawn anew, so that nothing of the file but its pixels is kept: no
metadata, no second file hidden in the first, no markup. Which fields branding has is the API's shape.
"""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
LONGEST = 240_000
"""Characters of base64 taken: what fits into a request beside the other fields."""

_SIDE = 2_048
_SHOWN = 512
_KEPT = 48 * 1024
# A progressive JPEG is decoded once for each scan, and a scan may be a few bytes.
_SCANS = 64


class NotAPicture(ValueError):
    """The text says why, for the one who sent it."""


def redrawn(picture: str) -> str:
    """A picture in base64 as a PNG in base64, at most 512 by 512 and 48 kB. Raises NotAPicture.

    What it returns it returns again unchanged.
    """
    if len(picture) > LONGEST:
        raise NotAPicture(f"Must be at most {LONGEST} characters of base64.")
    try:
        content = base64.b64decode(picture, validate=True)
    except (binascii.Error, ValueError):
        raise NotAPicture("Must be a picture in base64.") from None
    return base64.b64encode(_as_png(_decoded(content))).decode()


def _decoded(content: bytes) -> Image.Image:
    unreadable = NotAPicture(f"Must be a picture: {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
    too_large = NotAPicture(f"Must be at most {_SIDE} by {_SIDE} pixels.")
    try:
        # Reads the header only; nothing is decoded before the size is known.
        with Image.open(io.BytesIO(content), formats=FORMATS) as found:
            if max(found.size) > _SIDE:
                raise too_large
            if found.format == "JPEG" and content.count(b"\xff\xda") > _SCANS:
                raise unreadable
            found.load()
            return ImageOps.exif_transpose(found).convert("RGBA")
    except NotAPicture:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large from None
    except Exception:  # The decoders have no common error: damaged files raise what happens to break.
        raise unreadable from None


def _as_png(picture: Image.Image) -> bytes:
    side = _SHOWN
    while True:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        # A new picture, for the old one carries what its file said about itself into the next.
        clean = Image.new("RGBA", picture.size)
        clean.paste(picture)
        written = io.BytesIO()
        clean.save(written, "PNG", optimize=True)
        if written.tell() <= _KEPT:
            return written.getvalue()
        side = max(picture.size) * 3 // 4

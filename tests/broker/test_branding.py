"""Branding: names, colours and pictures drawn anew; nothing else, and nothing of the file but its pixels."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib

import pytest
from PIL import Image, ImageFile, WebPImagePlugin

from broker.registry.branding import LONGEST, NotAPicture, redrawn
from tests.casting import Cast, code


def picture(size: tuple[int, int] = (64, 32), kind: str = "PNG", mode: str = "RGB", **options: object) -> str:
    written = io.BytesIO()
    Image.new(mode, size, 200 if mode == "L" else None).save(written, kind, **options)  # type: ignore[arg-type]
    return base64.b64encode(written.getvalue()).decode()


def noise(side: int) -> str:
    written = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(7).randbytes(side * side * 3)).save(written, "JPEG", quality=40)
    return base64.b64encode(written.getvalue()).decode()


def opened(drawn: str) -> Image.Image:
    content = base64.b64decode(drawn, validate=True)
    assert content.startswith(b"\x89PNG\r\n") and len(content) <= 48 * 1024
    return Image.open(io.BytesIO(content))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_of_each_kind_becomes_a_png(kind: str) -> None:
    shown = opened(redrawn(picture(kind=kind)))
    assert shown.format == "PNG" and shown.size == (64, 32)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_of_a_png_is_understood(mode: str) -> None:
    assert opened(redrawn(picture(mode=mode))).mode == "RGBA"


def test_a_large_picture_is_shown_small_with_its_shape_kept() -> None:
    assert opened(redrawn(picture((2048, 1024)))).size == (512, 256)


def test_a_picture_that_cannot_be_written_small_is_shrunk_until_it_is() -> None:
    width, height = opened(redrawn(noise(400))).size
    assert width == height and 96 <= width < 400


@pytest.mark.parametrize("given", [picture(kind="JPEG"), noise(400)])
def test_what_was_redrawn_is_taken_back_unchanged(given: str) -> None:
    once = redrawn(given)
    assert redrawn(once) == once


def test_nothing_of_the_file_but_its_pixels_is_kept() -> None:
    secret = b"<script>alert(1)</script>"
    content = base64.b64decode(picture())
    hidden = content[:33] + chunk(b"tEXt", b"Comment\0" + secret) + chunk(b"iCCP", b"x\0\0" + zlib.compress(secret))
    drawn = base64.b64decode(redrawn(base64.b64encode(hidden + content[33:] + b"PK\3\4" + secret).decode()))
    assert secret not in drawn and drawn.endswith(b"IEND\xaeB`\x82") and Image.open(io.BytesIO(drawn)).info == {}


def test_a_photograph_is_turned_the_way_it_was_held() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    assert opened(redrawn(picture((64, 32), "JPEG", exif=turned))).size == (32, 64)


def bomb(width: int, height: int) -> str:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1_000_000), 9)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + body).decode()


def webp_bomb() -> str:
    canvas = struct.pack("<I", 16_383)[:3]
    chunks = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas + canvas
    whole = base64.b64decode(picture(kind="WEBP", lossless=True))[12:]
    return base64.b64encode(b"RIFF" + struct.pack("<I", 4 + len(chunks + whole)) + b"WEBP" + chunks + whole).decode()


@pytest.mark.parametrize("given", [bomb(2049, 1), bomb(10_000, 9_500), bomb(60_000, 60_000), webp_bomb()])
def test_a_decompression_bomb_is_refused_for_its_size_before_it_is_decoded(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    monkeypatch.setattr(WebPImagePlugin.WebPImageFile, "load", load)
    with pytest.raises(NotAPicture, match="pixels"):
        redrawn(given)


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    content = base64.b64decode(picture((2048, 2048), "JPEG", progressive=True))
    start = content.rindex(b"\xff\xda")
    scans = content[:start] + content[start:-2] * 200 + content[-2:]
    with pytest.raises(NotAPicture):
        redrawn(base64.b64encode(scans).decode())
    assert opened(redrawn(picture((64, 64), "JPEG", progressive=True)))


def other(kind: str) -> str:
    written = io.BytesIO()
    Image.new("RGB", (8, 8)).save(written, kind)
    return base64.b64encode(written.getvalue()).decode()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


REFUSED = {
    "svg": text(b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'),
    "html": text(b"<!doctype html><script>alert(1)</script>"),
    "bmp": other("BMP"),
    "tiff": other("TIFF"),
    "ico": other("ICO"),
    "eps": text(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
    "truncated": text(base64.b64decode(noise(100))[:300]),
    "damaged": text(base64.b64decode(picture())[:40] + b"\0" * 40),
    "empty": "",
    "data url": "data:image/png;base64," + picture(),
    "not base64": "*" * 8,
    "broken lines": picture()[:20] + "\n" + picture()[20:],
    "not ascii": "é" * 8,
    "too long": "A" * (LONGEST + 4),
}


@pytest.mark.parametrize("given", REFUSED.values(), ids=REFUSED)
def test_what_is_no_picture_is_refused(given: str) -> None:
    with pytest.raises(NotAPicture):
        redrawn(given)


@pytest.mark.parametrize("kind", ["partners", "tenants"])
def test_branding_is_saved_and_shown_drawn_anew(cast: Cast, kind: str) -> None:
    owner = cast.world.partner_id if kind == "partners" else cast.world.acme.tenant_id
    path = f"/{kind}/{owner}"
    given = {"name": "Südwind", "color": "#C8102E", "logo": picture(kind="JPEG")}
    answer = cast.super_admin.patch(path, {"branding": given})
    assert answer.status_code == 200, answer.get_json()
    shown = answer.get_json()["branding"]
    assert shown == {"name": "Südwind", "color": "#c8102e", "logo": redrawn(given["logo"])}
    again = cast.super_admin.patch(path, {"branding": shown}).get_json()
    assert again["updated_at"] == answer.get_json()["updated_at"], "nothing differed"
    assert cast.super_admin.patch(path, {"branding": {}}).get_json()["branding"] == {}


@pytest.mark.parametrize(
    ("branding", "field"),
    [
        ({"logo": "data:,"}, "branding.logo"),
        ({"logo": REFUSED["svg"]}, "branding.logo"),
        ({"logo": None}, "branding.logo"),
        ({"logo": 5}, "branding.logo"),
        ({"color": "red"}, "branding.color"),
        ({"color": "#fff"}, "branding.color"),
        ({"color": "#0a4b8c;}*{x:y"}, "branding.color"),
        ({"color": "#0a4b8c\n"}, "branding.color"),
        ({"name": ""}, "branding.name"),
        ({"name": "a\tb"}, "branding.name"),
        ({"name": "x" * 201}, "branding.name"),
        ({"css": "*{}"}, "branding.css"),
        ({"html": "<b>"}, "branding.html"),
        ({"favicon": "AA=="}, "branding.favicon"),
        ("name", "branding"),
        ([], "branding"),
        (None, "branding"),
    ],
)
def test_anything_else_is_refused_with_its_place(cast: Cast, branding: object, field: str) -> None:
    for path in (f"/partners/{cast.world.partner_id}", f"/tenants/{cast.world.acme.tenant_id}"):
        refused = cast.super_admin.patch(path, {"branding": branding})
        assert code(refused) == (422, "validation_failed")
        assert list(refused.get_json()["errors"]) == [field]

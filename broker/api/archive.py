"""`/archive`: a whole tenant as one file of lines, out and in; `/archive-runs`: how far an import is, what it refused.

What is in an archive and how it is taken is `scim.archive`'s. A body is put by before anything is done with it, and
what is given out was written before it is sent: no transaction waits for another's network.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from flask import Response, request

from broker import access, running
from broker.api.door import api, listed, show
from broker.api.events import LINES
from broker.api.shapes import Shape, auto_field
from broker.doors import About, scope
from broker.errors import UnsupportedMediaType, ValidationFailed
from broker.models import ArchiveRefusal, ArchiveRun
from broker.policy import Action
from scim import archive

LARGEST = 256 * 1024 * 1024
"""Octets of an archive over HTTP; larger ones are imported by the command."""
_AT_ONCE = 256 * 1024


class ArchiveRunShape(Shape):
    class Meta(Shape.Meta):
        model = ArchiveRun

    id = auto_field(dump_only=True)
    dry_run = auto_field(dump_only=True)
    status = auto_field(dump_only=True)
    line = auto_field(dump_only=True)
    total = auto_field(dump_only=True)
    created = auto_field(dump_only=True)
    unchanged = auto_field(dump_only=True)
    refused = auto_field(dump_only=True)
    problem = auto_field(dump_only=True)
    requested_by = auto_field(dump_only=True)
    started_at = auto_field(dump_only=True)
    finished_at = auto_field(dump_only=True)


class RefusalShape(Shape):
    class Meta(Shape.Meta):
        model = ArchiveRefusal

    line = auto_field(dump_only=True)
    path = auto_field(dump_only=True)
    detail = auto_field(dump_only=True)


@api.route("/archive", action=Action.ARCHIVE_READ, transaction=False)
def read_archive() -> Response:
    """Everything of the tenant's directory as newline-delimited JSON, in one consistent state."""
    with _folder() as folder:
        path = folder / "archive"
        archive.export_archive(scope(), path)
        size = path.stat().st_size
        file = path.open("rb")  # what was opened stays readable when the folder is gone

    def pieces() -> Iterator[bytes]:
        with file:
            while piece := file.read(_AT_ONCE):
                yield piece

    answer = Response(pieces(), mimetype=LINES)
    answer.call_on_close(file.close)
    answer.content_length = size
    answer.headers["Content-Disposition"] = f'attachment; filename="{scope().slug}.ndjson"'
    return answer


@api.route(
    "/archive",
    methods=["POST"],
    action=Action.ARCHIVE_WRITE,
    transaction=False,
    max_bytes=LARGEST,
    about=About(gives=ArchiveRunShape, query={"dry_run": "`true`: say what would be taken, and change nothing."}),
)
def import_archive() -> Response:
    """Take in what an archive holds and is not here yet; an import that was interrupted goes on."""
    dry_run = request.args.get("dry_run", "false")
    if dry_run not in ("true", "false"):
        raise ValidationFailed(errors={"dry_run": ["Must be true or false."]})
    if request.mimetype != LINES or request.headers.get("Content-Encoding", "identity") != "identity":
        raise UnsupportedMediaType(f"Send {LINES}, not compressed")
    with _folder() as folder:
        path = folder / "archive"
        with path.open("wb") as file:
            shutil.copyfileobj(request.stream, file, _AT_ONCE)
        try:
            run = archive.import_archive(scope(), path, dry_run=dry_run == "true")
        except archive.Broken as broken:
            place = f"line {broken.line}{broken.path and f', {broken.path}'}"
            raise ValidationFailed("The archive cannot be read", errors={place: [broken.detail]}) from None
    return show(ArchiveRunShape, run)


@api.route("/archive-runs", action=Action.ARCHIVE_READ, about=About(gives=ArchiveRunShape, listed=True))
def list_archive_runs() -> Response:
    """The imports of archives, newest first."""
    return listed(sa.select(ArchiveRun), ArchiveRunShape, [ArchiveRun.no], newest_first=True)


@api.route("/archive-runs/<archive_run_id>", action=Action.ARCHIVE_READ, about=About(gives=ArchiveRunShape))
def read_archive_run(archive_run_id: str) -> Response:
    """One import: how many lines it has come, and what became of them."""
    return show(ArchiveRunShape, access.fetch(ArchiveRun, archive_run_id, to=Action.ARCHIVE_READ))


@api.route(
    "/archive-runs/<archive_run_id>/refused",
    action=Action.ARCHIVE_READ,
    about=About(gives=RefusalShape, listed=True),
)
def list_refused(archive_run_id: str) -> Response:
    """The lines an import could not take, each with the place and the reason."""
    run = access.fetch(ArchiveRun, archive_run_id, to=Action.ARCHIVE_READ)
    refused = sa.select(ArchiveRefusal).where(ArchiveRefusal.run_id == run.id)
    return listed(refused, RefusalShape, [ArchiveRefusal.no])


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="archive-", dir=running.config().data_dir) as folder:
        yield Path(folder)

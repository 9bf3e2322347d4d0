"""Where the embedded servers live: directories, sockets, passwords and locks below the data directory.

Owns names and files only; `keeper` runs the servers, `postgres` and `valkey` know theirs.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

# sun_path holds 104 bytes on macOS and 108 on Linux, the longest name we add is "/.s.PGSQL.5432".
_LONGEST_SOCKET_DIRECTORY = 103 - len("/.s.PGSQL.5432")
_LOG_LIMIT = 8 * 1024 * 1024

SUPERUSER = "postgres"
ROLES = ("scaikey_owner", "scaikey_app", "scaikey_platform")
VALKEY = "valkey"
DATABASE = "scaikey"


class Home:
    """The private directory of the embedded servers of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "embedded"
        self.postgres = self.path / "postgres"
        self.valkey = self.path / "valkey"
        self._passwords_file = self.path / "passwords.json"
        self._sockets_file = self.path / "sockets-directory"
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def control(self) -> Path:
        """The keeper's socket."""
        return self.sockets / "control.sock"

    @property
    def sockets(self) -> Path:
        """A private directory whose path is short enough for a socket's; the same one for every process."""
        own = self.path / "run"
        if len(os.fsencode(own)) <= _LONGEST_SOCKET_DIRECTORY:
            own.mkdir(mode=0o700, exist_ok=True)
            return own
        try:
            known = Path(self._sockets_file.read_text().strip())
            if _is_private(known):
                return known
        except OSError:
            pass
        return self._new_sockets_directory()

    def forget_sockets(self) -> None:
        """Remove a socket directory outside the data directory; the next start makes another."""
        sockets = self.sockets
        if sockets.parent != self.path:
            self._sockets_file.unlink(missing_ok=True)
            for entry in sockets.iterdir():
                entry.unlink()
            sockets.rmdir()

    def passwords(self) -> dict[str, str]:
        """Every role's password, made at the first start. Call it for the first time under the start lock."""
        try:
            kept: dict[str, str] = json.loads(self._passwords_file.read_text())
            return kept
        except FileNotFoundError:
            made = {role: secrets.token_urlsafe(24) for role in (SUPERUSER, *ROLES, VALKEY)}
            self._write(self._passwords_file, json.dumps(made))
            return made

    def database_url(self, role: str, database: str = DATABASE) -> str:
        return (
            f"postgresql+psycopg://{role}:{self.passwords()[role]}@/{database}"
            f"?host={quote(str(self.sockets), safe='')}&port=5432"
        )

    def redis_url(self) -> str:
        return f"unix://:{self.passwords()[VALKEY]}@{quote(str(self.sockets / 'valkey.sock'))}?db=0"

    @contextmanager
    def lock(self, name: str, patience: float) -> Iterator[None]:
        """Hold a lock that the kernel releases when we die. TimeoutError after `patience` seconds."""
        descriptor = os.open(self.path / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise TimeoutError(f"another process holds {self.path / name}.lock") from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(descriptor)

    def log(self, name: str) -> Path:
        """The log file of one server, the older half set aside when it has grown long."""
        path = self.path / f"{name}.log"
        if path.exists() and path.stat().st_size > _LOG_LIMIT:
            path.replace(path.with_suffix(".log.1"))
        path.touch(mode=0o600)
        return path

    def _new_sockets_directory(self) -> Path:
        for parent in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
            if parent and os.access(parent, os.W_OK) and len(os.fsencode(parent)) + 17 <= _LONGEST_SOCKET_DIRECTORY:
                made = Path(tempfile.mkdtemp(prefix="scaikey-", dir=parent))  # mode 0700
                self._write(self._sockets_file, str(made))
                return made
        raise OSError(f"no directory for sockets: the path of {self.path} is too long and there is no temporary one")

    def _write(self, path: Path, text: str) -> None:
        descriptor, draft = tempfile.mkstemp(dir=self.path, prefix=f".{path.name}")  # mode 0600
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)


def package_directory(package: str) -> Path:
    """Where an installed package lives. It is not imported: that would run code of it that we do not use."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise OSError(f"the package {package} is not installed for this platform")
    return Path(next(iter(spec.submodule_search_locations)))


def _is_private(directory: Path) -> bool:
    found = directory.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077

"""The process's configuration: the environment, read once and checked.

Owns every variable of the public contract, the data directory and the generated secret key. A wrong value
is a `ConfigError` of one line that names its variable. What the product lets administrators set is
`settings`; which servers run when no URL is given is `embedded`.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar
from urllib.parse import SplitResult, urlsplit

from broker import ids

LogFormat = Literal["json", "text"]
Network = IPv4Network | IPv6Network
T = TypeVar("T")

DATABASE_VARIABLES = ("DATABASE_URL", "SCAIKEY_OWNER_DATABASE_URL", "SCAIKEY_PLATFORM_DATABASE_URL")
SECRET_KEY_FILE = "secret.key"
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class ConfigError(Exception):
    """A variable whose value cannot be used. Its text is one line that begins with the variable's name."""

    def __init__(self, variable: str, complaint: str) -> None:
        self.variable = variable
        super().__init__(f"{variable}: {complaint}")


class EgressRule(NamedTuple):
    """A place the tenant (`*`: every tenant) may reach although its address is private."""

    tenant: str
    network: Network
    port: int


@dataclass(frozen=True)
class Config:
    """What this process was told. URLs are None when the embedded servers are to stand in."""

    database_url: str | None = field(repr=False)
    owner_database_url: str | None = field(repr=False)
    platform_database_url: str | None = field(repr=False)
    redis_url: str | None = field(repr=False)
    base_url: str
    data_dir: Path
    secret_key: bytes = field(repr=False)
    allow_http_loopback: bool
    egress_allow: tuple[EgressRule, ...]
    trusted_proxies: tuple[Network, ...]
    log_level: str
    log_format: LogFormat
    metrics_enabled: bool


def load(environ: Mapping[str, str] | None = None) -> Config:
    """Read and check the environment. Makes the data directory and the secret key where they are needed and missing.

    An empty variable counts as unset. Raises ConfigError.
    """
    given = {name: value.strip() for name, value in (os.environ if environ is None else environ).items()}

    def read(name: str, default: str, parse: Callable[[str], T]) -> T:
        try:
            return parse(given.get(name) or default)
        except ValueError as error:
            raise ConfigError(name, str(error)) from None

    database_url, owner_database_url, platform_database_url = _database_urls(given)
    redis_url = read("REDIS_URL", "", _redis_url) or None
    base_url = read("SCAIKEY_BASE_URL", "http://localhost:8080", _base_url)
    allow_http_loopback = read("SCAIKEY_ALLOW_HTTP_LOOPBACK", "0", _switch)
    if allow_http_loopback and not is_loopback(urlsplit(base_url).hostname or ""):
        raise ConfigError("SCAIKEY_ALLOW_HTTP_LOOPBACK", f"is only for a base URL on loopback, and that is {base_url}")
    data_dir = read("SCAIKEY_DATA_DIR", "var", Path).absolute()
    key_text = given.get("SCAIKEY_SECRET_KEY")
    if database_url is None or redis_url is None or not key_text:
        try:
            _make_private(data_dir)
        except (OSError, ValueError) as error:
            raise ConfigError("SCAIKEY_DATA_DIR", str(error)) from None
    return Config(
        database_url=database_url,
        owner_database_url=owner_database_url,
        platform_database_url=platform_database_url,
        redis_url=redis_url,
        base_url=base_url,
        data_dir=data_dir,
        secret_key=read("SCAIKEY_SECRET_KEY", "", _key) if key_text else _kept_key(data_dir),
        allow_http_loopback=allow_http_loopback,
        egress_allow=read("SCAIKEY_EGRESS_ALLOW", "", lambda text: tuple(map(_egress_rule, _items(text)))),
        trusted_proxies=read("SCAIKEY_TRUSTED_PROXIES", "", lambda text: tuple(map(_network, _items(text)))),
        log_level=read("SCAIKEY_LOG_LEVEL", "INFO", _level),
        log_format=read("SCAIKEY_LOG_FORMAT", "text", _format),
        metrics_enabled=read("SCAIKEY_METRICS", "0", _switch),
    )


def is_loopback(host: str) -> bool:
    """Whether the host of a URL (no brackets) is this machine by name or by address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _database_urls(given: Mapping[str, str]) -> tuple[str | None, str | None, str | None]:
    urls: list[str] = []
    roles: dict[str, str] = {}
    missing = [name for name in DATABASE_VARIABLES if not given.get(name)]
    if len(missing) == len(DATABASE_VARIABLES):
        return None, None, None
    if missing:
        raise ConfigError(missing[0], f"is missing: set all of {', '.join(DATABASE_VARIABLES)}, or none")
    for name in DATABASE_VARIABLES:
        parts = _parts(name, given[name])
        if parts.scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise ConfigError(name, "must begin with postgresql://")
        if not parts.username:
            raise ConfigError(name, "names no role: postgresql://ROLE:PASSWORD@HOST/DATABASE")
        if not parts.path.strip("/"):
            raise ConfigError(name, "names no database: postgresql://ROLE:PASSWORD@HOST/DATABASE")
        if parts.username in roles:
            raise ConfigError(name, f"must name another role than {roles[parts.username]}")
        roles[parts.username] = name
        # Our one driver is spelled out, for SQLAlchemy would pick another by default.
        urls.append("postgresql+psycopg://" + given[name].split("://", 1)[1])
    return urls[0], urls[1], urls[2]


def _parts(name: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # urllib's own text may quote the value, and with it a password.
        raise ConfigError(name, "is not a URL") from None
    return parts


def _redis_url(text: str) -> str:
    if not text:
        return text
    parts = _parts("REDIS_URL", text)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    if not (parts.path if parts.scheme == "unix" else parts.hostname):
        raise ValueError("names no socket" if parts.scheme == "unix" else "names no host")
    return text


def _base_url(text: str) -> str:
    parts = _parts("SCAIKEY_BASE_URL", text)
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("must be https://HOST (or http:// on loopback)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user name or password")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("must end after the host and port: well-known documents live at the root of the host")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("must be https:// unless the host is on loopback")
    try:
        name = f"[{ip_address(host)}]" if ":" in host else host.encode("idna").decode("ascii")
    except ValueError:
        raise ValueError("holds a host that is no name and no address") from None
    standard = 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{name}" + (f":{parts.port}" if parts.port not in (None, standard) else "")


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        raise ValueError("must be base64") from None
    if len(key) != 32:
        raise ValueError(f"must be 32 bytes in base64, not {len(key)}")
    return key


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _egress_rule(item: str) -> EgressRule:
    tenant, _, place = item.partition("=")
    network, _, port = place.rpartition(":")
    if not (tenant == "*" or ids.is_id(tenant, "tnt")) or not network:
        raise ValueError(f"{item!r} is not tnt_…=CIDR:port or *=CIDR:port")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{item!r} needs a port from 1 to 65535")
    return EgressRule(tenant, _network(network.removeprefix("[").removesuffix("]")), int(port))


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an address or a network such as 10.1.0.0/16") from None


def _switch(text: str) -> bool:
    if text.lower() not in _SWITCH:
        raise ValueError("must be 1 or 0")
    return _SWITCH[text.lower()]


def _level(text: str) -> str:
    if text.upper() not in _LEVELS:
        raise ValueError(f"must be one of {', '.join(level.lower() for level in _LEVELS)}")
    return text.upper()


def _format(text: str) -> LogFormat:
    match text.lower():
        case "json":
            return "json"
        case "text":
            return "text"
    raise ValueError("must be json or text")


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ValueError(f"{directory} is not a directory of the user this runs as")
    if found.st_mode & (stat.S_IWOTH | stat.S_ISVTX):
        raise ValueError(f"{directory} is a directory others write to: name one for ScaiKey alone")
    if stat.S_IMODE(found.st_mode) != 0o700:
        directory.chmod(0o700)


def _kept_key(data_dir: Path) -> bytes:
    path = data_dir / SECRET_KEY_FILE
    try:
        if not path.exists():
            _keep_new_key(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError("SCAIKEY_SECRET_KEY", f"is kept in {path}, which others may read: chmod 600 it")
        return _key(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise ConfigError("SCAIKEY_SECRET_KEY", f"cannot be kept in {path}: {error}") from None


def _keep_new_key(path: Path) -> None:
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".secret")  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link never overwrites: of several processes starting at once, one key wins and all read that one.
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        os.unlink(draft)

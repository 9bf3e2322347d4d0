"""The process's log: one stream, JSON lines or text, with who and where on every line and no secret on any.

Owns the set-up, the fields bound to a unit of work, and redaction, which happens as a record is rendered:
message, arguments, exception, stack and extra fields alike. Callers log through `logging.getLogger(__name__)`.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import MappingProxyType, TracebackType
from typing import Any, TextIO, cast
from urllib.parse import unquote, urlsplit

from broker.config import Config

Fields = Mapping[str, object]

HIDDEN = "***"
_LONGEST = 100_000
"""Characters of a message, a field or an exception; what goes beyond is a mistake of the caller's."""

_fields: ContextVar[Fields] = ContextVar("scaikey_log_fields", default=MappingProxyType({}))
_known_secrets: tuple[str, ...] = ()

_SECRET = (
    r"(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|private[_-]?key|secret[_-]?key|assertion|credential"
    r"|code[_-]?verifier)s?"
)
_SECRET_NAME = re.compile(rf"(?i).*(?:{_SECRET}|authorization|cookie)$")
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # A private key in PEM, also with its line ends escaped, also cut off.
    (
        re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.S),
        f"-----PRIVATE KEY {HIDDEN}-----",
    ),
    # A header whose whole value is a credential: to the end of the line, or of the quoted string.
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie)(\\*['\"]?\s*[:=,]\s*b?\\*['\"]?)(?!\s)[^'\"\r\n\\]+"
        ),
        rf"\1\2{HIDDEN}",
    ),
    # A bare credential; the look-ahead spares prose such as "basic authentication".
    (
        re.compile(r"(?i)\b(bearer|basic|dpop|negotiate)\s+(?=[a-z]*[\d+/=._~-])[a-z0-9+/=._~-]{8,}"),
        rf"\1 {HIDDEN}",
    ),
    # Our own tokens by their prefix, and any JWT.
    (re.compile(r"\b(sk[a-z]_)[A-Za-z0-9_-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]+"), HIDDEN),
    # scheme://user:password@host
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{1,20}://[^\s/?#:@'\"]{0,256}):[^\s/?#'\"]{1,512}@"), rf"\1:{HIDDEN}@"),
    # name=value, name: value, "name": "value", 'name' => 'value', LDIF's name:: value; quotes may be escaped.
    (
        re.compile(
            rf"(?i)(?<![\w.-])([\w.-]{{0,60}}?{_SECRET}(?:\\*['\"])?\s*(?:=>|::?|=)\s*b?)"
            r"(?:(\\*)(['\"])(?:(?!\2\3)(?:\\+.|.))*(?:\2\3|$)|[^\s&'\"\\][^\s&]*)",
            re.M,
        ),
        rf"\1{HIDDEN}",
    ),
    # What a sign-in carries in its query string.
    (re.compile(r"([?&](?:code|state|id_token_hint|SAMLResponse|SAMLRequest)=)[^&\s'\"]+"), rf"\1{HIDDEN}"),
)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def bind(**fields: object) -> Token[Fields]:
    """Put fields (request_id, tenant, actor, job, …) on every line of this context, until `unbind`."""
    return _fields.set({**_fields.get(), **fields})


def unbind(token: Token[Fields]) -> None:
    """Back to the fields before that `bind`."""
    _fields.reset(token)


@contextmanager
def bound(**fields: object) -> Iterator[None]:
    """`bind` for the length of a block."""
    token = bind(**fields)
    try:
        yield
    finally:
        unbind(token)


def conceal(*secrets: str) -> None:
    """Hide these very strings wherever they turn up from now on: the secrets this process was started with."""
    global _known_secrets
    known = {*_known_secrets, *(secret for secret in secrets if len(secret) >= 8)}
    _known_secrets = tuple(sorted(known, key=len, reverse=True))


def redact(text: str) -> str:
    """The text without anything that looks like a secret, or is one we were told of."""
    for secret in _known_secrets:
        text = text.replace(secret, HIDDEN)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… and {len(text) - _LONGEST} more characters"
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def configure(config: Config, stream: TextIO | None = None) -> None:
    """Send every logger, warning and uncaught exception to one stream (standard error), rendered by us."""
    conceal(*_secrets_of(config))
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log_level)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


class MergedStream:
    """One stream for the lines of several processes: each marked with whose it is, and no secret on any."""

    def __init__(self, stream: TextIO, as_json: bool) -> None:
        self._stream = stream
        self._as_json = as_json
        self.closed = False

    def say(self, process: str, line: str) -> None:
        """Write one line of a process; nothing once `closed`, that is when nobody reads the stream any more."""
        if self.closed:
            return
        if not self._as_json:
            line = f"{process:<6} | {redact(line)}"
        elif line.startswith('{"') and line.endswith("}"):
            line = f'{{"process": {json.dumps(process)}, {line[1:]}'
        else:  # not one of our records: a traceback of the interpreter's, another program's word
            line = json.dumps({"process": process, "message": redact(line)}, ensure_ascii=False)
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except OSError:
            self.closed = True

    def of(self, process: str) -> TextIO:
        """A stream whose lines are that process's."""
        return cast(TextIO, _Voice(self, process))


class _Voice(io.TextIOBase):
    def __init__(self, merged: MergedStream, process: str) -> None:
        self._merged = merged
        self._process = process

    def write(self, text: str) -> int:
        for line in text.splitlines():
            self._merged.say(self._process, line)
        return len(text)


class _Formatter(logging.Formatter):
    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """Everything the record says, redacted."""
        said: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(_message(record)),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        for name, value in {**_fields.get(), **extra}.items():
            if value is not None:
                said.setdefault(name, _redacted(name, value))
        if record.exc_info and record.exc_info[0] is not None:
            said["exception"] = redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
        elif record.exc_text:
            said["exception"] = redact(record.exc_text)
        if record.stack_info:
            said["stack"] = redact(record.stack_info)
        return said


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record), ensure_ascii=False, default=str)


class TextFormatter(_Formatter):
    """A line for people: what was said, then the fields, then an exception in lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        said = self.fields(record)
        blocks = [str(said.pop(name)) for name in ("exception", "stack") if name in said]
        when, level, logger, message = (str(said.pop(name)) for name in ("time", "level", "logger", "message"))
        facts = "".join(f" {name}={_one_line(str(value))}" for name, value in said.items())
        line = f"{when} {level.upper():<7} {logger}: {_one_line(message)}{facts}"
        return "\n".join([line, *("    " + part for block in blocks for part in block.splitlines())])


class _Handler(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            # A lone surrogate must not cost us the line.
            line = self.format(record).encode("utf-8", "backslashreplace").decode()
            self.stream.write(line + self.terminator)
            self.flush()
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """The standard one prints the message and its arguments as they are."""
        kind = sys.exc_info()[0]
        try:
            sys.__stderr__.write(  # type: ignore[union-attr]
                f"a log record of {record.name} ({record.pathname}:{record.lineno}) could not be written: "
                f"{kind.__name__ if kind else 'unknown'}\n"
            )
        except Exception:  # standard error is gone; there is nowhere left to say so
            return


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:
        return f"{record.msg!s} (arguments do not fit: {type(error).__name__})"


def _redacted(name: str, value: object) -> object:
    """The value for JSON, hidden when the name says so, otherwise searched to the bottom."""
    if _SECRET_NAME.match(name):
        return HIDDEN
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", item) for item in value]
    if isinstance(value, bytes):
        return redact(value.decode(errors="replace"))
    return redact(str(value))


def _one_line(text: str) -> str:
    """Nobody forges a line, or a terminal sequence, with a name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _secrets_of(config: Config) -> Iterator[str]:
    yield base64.b64encode(config.secret_key).decode()
    yield config.secret_key.hex()
    for url in (config.database_url, config.owner_database_url, config.platform_database_url, config.redis_url):
        if url and (password := urlsplit(url).password):
            yield from {password, unquote(password)}


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("scaikey").critical("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: Any) -> None:
    if args.exc_type is SystemExit:
        return
    error = args.exc_value or args.exc_type()
    where = args.thread.name if args.thread else "a thread"
    logging.getLogger("scaikey").critical(
        "uncaught exception in %s", where, exc_info=(args.exc_type, error, args.exc_traceback)
    )

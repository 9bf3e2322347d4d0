"""The engines, the session and the tenant wall.

Owns the unit of work: one transaction in one scope, set once. Wall 1 lives here: every ORM statement gets the tenant
condition, a statement without a scope is refused, and directory tables are written only inside `directory_writes()`.
Wall 2 is PostgreSQL's row-level security, for which the transaction names its tenant; wall 3 is composite keys.
Views and services never commit: `unit` and `platform_scope` do.
"""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, LiteralString, TypeVar, cast

import psycopg
import sqlalchemy as sa
from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session as FlaskSession
from psycopg.rows import namedtuple_row
from sqlalchemy import Connection, Engine, event, exists, or_, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, UOWTransaction, with_loader_criteria

from .context import PLATFORM, Scope
from .models import Application, ApplicationAccess, Base, DirectoryOwned, TenantOwned

PLATFORM_BIND = "platform"
CONNECT_TIMEOUT = 5
"""Seconds until a database that does not answer counts as away."""

_ATTEMPTS = 5
Done = TypeVar("Done")

_writing_directory: ContextVar[bool] = ContextVar("scaikey_writing_directory", default=False)


class WallError(RuntimeError):
    """Our own code tried to cross the tenant wall: a defect, never a caller's fault."""


class HouseSession(FlaskSession):
    """A session whose scope decides its engine and its tenant."""

    def get_bind(self, mapper: Any = None, clause: Any = None, bind: Any = None, **kwargs: Any) -> Engine | Connection:
        if bind is not None:
            return cast("Engine | Connection", bind)
        return self._db.engines[PLATFORM_BIND] if scope_of(self).spans_tenants else self._db.engines[None]

    def execute(self, statement: Any, params: Any = None, **kwargs: Any) -> Any:
        """Text goes straight to the connection: there is nothing in it for the ORM, which costs it twice as much."""
        if isinstance(statement, sa.TextClause) and not kwargs and (begun := self.begun()) is not None:
            return begun.execute(statement, params)
        return super().execute(statement, params, **kwargs)

    def begun(self) -> Connection | None:
        """The connection, once the innermost transaction has begun on it: a savepoint does with its first statement."""
        connections: Mapping[SessionTransaction | None, Connection] = self.info.get("begun", {})
        return connections.get(self.get_nested_transaction() or self.get_transaction())


db = SQLAlchemy(metadata=Base.metadata, session_options={"class_": HouseSession})


def connect(app: Flask, *, url: str, platform_url: str, statement_timeout_ms: int = 5_000, pool_size: int = 8) -> None:
    """Give the app its two engines: the application role's, and the platform role's for `platform_scope` only."""
    timeouts = (
        f"-c jit=off -c statement_timeout={statement_timeout_ms} -c lock_timeout=5000 "
        f"-c idle_in_transaction_session_timeout={max(60_000, statement_timeout_ms)}"
    )
    engine: dict[str, Any] = {
        "connect_args": {
            "options": timeouts,
            "application_name": "scaikey",
            "connect_timeout": CONNECT_TIMEOUT,
        },
        "hide_parameters": True,
        "pool_size": pool_size,
        "max_overflow": 4,
        "pool_timeout": 10,
    }
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {}
    app.config["SQLALCHEMY_BINDS"] = {
        None: {"url": url, **engine},
        PLATFORM_BIND: {"url": platform_url, **engine, "pool_size": 2},
    }
    db.init_app(app)
    with app.app_context():
        app.extensions["scaikey.hot"] = connections = _HotConnections(db.engine, timeouts)
    atexit.register(connections.close)


def scope_of(session: Session) -> Scope:
    scope = session.info.get("scope")
    if scope is None:
        raise WallError("a statement was issued without a scope")
    return cast(Scope, scope)


def current_scope() -> Scope:
    """The scope of the unit of work that is open."""
    return scope_of(db.session())


def current_tenant() -> str:
    """The tenant of the unit of work that is open."""
    tenant_id = current_scope().tenant_id
    if tenant_id is None:
        raise WallError("this needs a tenant, and the unit of work spans tenants")
    return tenant_id


def connection() -> Connection:
    """The connection of the unit of work that is open."""
    session = db.session()
    return cast(HouseSession, session).begun() or session.connection()


@contextmanager
def unit(scope: Scope) -> Iterator[Session]:
    """One transaction in one scope: commits at the end, rolls back when the block raises, then runs what waited for
    the commit."""
    session = db.session()
    if "scope" in session.info:
        raise WallError("a unit of work is already open; scopes are never changed")
    session.info["scope"] = scope
    session.info["after_commit"] = []
    try:
        yield session
        session.commit()
        waiting: list[Callable[[], None]] = session.info["after_commit"]
    except BaseException:
        session.rollback()
        raise
    finally:
        session.info.clear()
        session.close()
    for action in waiting:
        action()


@contextmanager
def platform_scope() -> Iterator[Session]:
    """A unit of work that spans tenants, on the role that bypasses row-level security. Allowed in named files only."""
    with unit(PLATFORM) as session:
        yield session


def in_one_transaction(begun: Callable[[], AbstractContextManager[Session]], work: Callable[[], Done]) -> Done:
    """Do the work in a unit of work; what the database aborted for our neighbours' sake is tried again from the
    start."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with begun():
                return work()
        except DBAPIError as error:
            if attempt == _ATTEMPTS or not is_for_neighbours(error):
                raise
    raise AssertionError("unreachable")


def is_for_neighbours(error: BaseException) -> bool:
    """Whether the database aborted a transaction for another's sake: nothing is wrong, and it can be tried again."""
    again = psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure
    return isinstance(error, DBAPIError) and isinstance(error.orig, again)


def after_commit(action: Callable[[], None]) -> None:
    """Run `action` once the open unit of work has committed; never when it rolls back."""
    waiting: list[Callable[[], None]] = db.session().info["after_commit"]
    if action not in waiting:
        waiting.append(action)


@contextmanager
def directory_writes() -> Iterator[None]:
    """Inside, the directory's tables may be written. Entered by `broker.directory` alone."""
    token = _writing_directory.set(True)
    try:
        yield
    finally:
        _writing_directory.reset(token)


class _HotConnections:
    """Idle driver connections for `hot`: autocommit, statements prepared at once, their plans kept, answers in binary.

    The engine's pool and result layers cost several times what these statements do. When the database has been away,
    all
    idle connections are stale: the first that shows it takes the others with it, and its statement is asked once more
    on
    a fresh one.
    """

    def __init__(self, engine: Engine, options: str) -> None:
        _, arguments = engine.dialect.create_connect_args(engine.url)
        self._arguments = {
            **arguments,
            # One plan for all tenants: by keys, or the smallest would pay for looking through the largest.
            "options": f"{options} -c plan_cache_mode=force_generic_plan -c enable_seqscan=off",
            "application_name": "scaikey",
            "connect_timeout": CONNECT_TIMEOUT,
        }
        self._idle: deque[psycopg.Connection[Any]] = deque()

    def run(self, statement: LiteralString, parameters: Mapping[str, Any]) -> Sequence[Any]:
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._ask(self._connected(), statement, parameters)
        try:
            return self._ask(connection, statement, parameters)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        self.close()
        return self._ask(self._connected(), statement, parameters)

    def _ask(
        self, connection: psycopg.Connection[Any], statement: LiteralString, parameters: Mapping[str, Any]
    ) -> Sequence[Any]:
        try:
            found = connection.execute(statement, parameters, prepare=True, binary=True).fetchall()
        except psycopg.Error as error:
            raise self._failure(error, gone=connection.broken or connection.closed) from error
        except BaseException:
            connection.close()
            raise
        finally:
            if not (connection.broken or connection.closed):
                self._idle.append(connection)
        return found

    def _connected(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(**self._arguments, autocommit=True, row_factory=namedtuple_row)
        except psycopg.OperationalError as error:
            raise self._failure(error, gone=True) from error

    @staticmethod
    def _failure(error: psycopg.Error, *, gone: bool) -> DBAPIError:
        """The error as the engine would raise it, without the statement's values: they are people's."""
        failure = DBAPIError.instance("", {}, error, psycopg.Error, hide_parameters=True, connection_invalidated=gone)
        return cast(DBAPIError, failure)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


def hot(statement: LiteralString, parameters: Mapping[str, Any] | None = None) -> Sequence[Any]:
    """One autocommit statement on the application role, for reads that must cost one round trip; rows are named tuples.

    Tenant-owned rows show only if the statement itself sets the tenant: see `IN_TENANT`.
    """
    connections: _HotConnections = current_app.extensions["scaikey.hot"]
    return connections.run(statement, parameters or {})


def refresh_statistics() -> None:
    """Tell the planner how large the directory has become. After a large import, not per page: it reads samples of
    tables."""
    hot("SELECT scaikey_refresh_statistics()")


def arrays(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with every list as a PostgreSQL array literal, for statements that unnest whole pages.

    The driver's own list adapter looks at each element with regular expressions and took a third of an import's time.
    Elements: str, bytes, bool, int, datetime or None.
    """
    return {name: _array(value) if isinstance(value, list) else value for name, value in parameters.items()}


def _array(values: list[Any]) -> str:
    return "{" + ",".join([_element(value) for value in values]) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        if "\\" in value or '"' in value:
            value = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{value}"'
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    if isinstance(value, datetime):
        return f'"{value.isoformat()}"'
    return str(value)


IN_TENANT: LiteralString = (
    "WITH scope AS MATERIALIZED (SELECT set_config('scaikey.tenant', %(tenant)s, true) AS tenant) "
)
"""Prefix of a `hot` statement: `… FROM scope, LATERAL (SELECT … WHERE tenant_id = scope.tenant … OFFSET 0) r`.

MATERIALIZED and OFFSET 0 keep the planner from evaluating the policy before the tenant is set.
"""


def application_visible(tenant_id: str) -> sa.ColumnElement[bool]:
    """An application shows to its owner and to every tenant with access."""
    return or_(
        Application.tenant_id == tenant_id,
        exists(
            select(ApplicationAccess.application_id).where(
                ApplicationAccess.tenant_id == tenant_id, ApplicationAccess.application_id == Application.id
            )
        ),
    )


@event.listens_for(HouseSession, "after_begin")
def name_tenant(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    scope = scope_of(session)
    session.info.setdefault("begun", {})[transaction] = connection
    if scope.tenant_id is not None and not transaction.nested:
        connection.exec_driver_sql("SELECT set_config('scaikey.tenant', %s, true)", (scope.tenant_id,))


_DIRECTORY = frozenset(
    table.name
    for table in (mapper.local_table for mapper in Base.registry.mappers if issubclass(mapper.class_, DirectoryOwned))
    if isinstance(table, sa.Table)
)


@event.listens_for(HouseSession, "do_orm_execute")
def add_tenant_condition(state: ORMExecuteState) -> None:
    scope = scope_of(state.session)
    if state.is_insert or state.is_update or state.is_delete:
        table = getattr(state.statement, "table", None)
        if table is not None and table.name in _DIRECTORY and not _writing_directory.get():
            raise WallError(f"{table.name} is written by broker.directory alone")
    tenant_id = scope.tenant_id
    if tenant_id is None or state.is_column_load or not (state.is_select or state.is_update or state.is_delete):
        return
    state.statement = state.statement.options(
        with_loader_criteria(TenantOwned, lambda cls: cls.tenant_id == tenant_id, include_aliases=True),
        with_loader_criteria(Application, application_visible(tenant_id), include_aliases=True),
    )


@event.listens_for(HouseSession, "before_flush")
def check_writes(session: Session, flush: UOWTransaction, instances: object) -> None:
    scope = scope_of(session)
    for row in (*session.new, *session.dirty, *session.deleted):
        if isinstance(row, DirectoryOwned) and not _writing_directory.get():
            raise WallError(f"{type(row).__name__} is written by broker.directory alone")
        if scope.tenant_id is None or not isinstance(row, (TenantOwned, Application)):
            continue
        owner: str | None = row.tenant_id
        if owner is None and row in session.new:
            row.tenant_id = scope.tenant_id
        elif owner != scope.tenant_id:
            raise WallError(f"{type(row).__name__} of another tenant cannot be written here")

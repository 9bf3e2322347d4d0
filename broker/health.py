"""Whether this installation works: `/healthz`, `/readyz`, `/metrics`, and the checks `scaikey doctor` prints.

Each check asks one thing of one neighbour and says what to do when the answer is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import orjson
import redis
import sqlalchemy as sa
from flask import Flask, Response, current_app

from broker import connections, migrations, running
from broker.context import Scope
from broker.db import CONNECT_TIMEOUT, db, platform_scope, unit
from broker.doors import About, Door
from broker.errors import NotFound, Problem
from broker.models import (
    Application,
    Delivery,
    HeldRemoval,
    IdentityProvider,
    PlatformFact,
    ScimTarget,
    SyncRun,
    Tenant,
)
from broker.policy import Action
from broker.sign_in import upstream
from broker.sync import queue
from broker.vault import VaultError
from connectors import kinds
from connectors.port import Misconfigured
from oidc import keys
from scim import push

KEY_FACT = "vault_key"
OLDEST_POSTGRESQL = 18
"""The first whose `casefold` and `pg_unicode_fast` fold names as we do."""


@dataclass(frozen=True)
class Verdict:
    name: str
    ok: bool
    found: str
    mend: str = ""


def _render(problem: Problem) -> Response:
    return Response(orjson.dumps({"status": problem.code}), problem.status, mimetype="application/json")


door = Door("health", url_prefix="", render=_render)


@door.route("/healthz", action=Action.NOTHING_SECRET, context="none", about=About(announced=False))
def alive() -> Response:
    """The process answers."""
    return Response(orjson.dumps({"status": "ok"}), mimetype="application/json")


@door.route("/readyz", action=Action.NOTHING_SECRET, context="none", about=About(announced=False))
def ready() -> Response:
    """Database, Valkey and migrations are as they have to be. Names what is not, and no detail."""
    checks = {verdict.name: "ok" if verdict.ok else "failed" for verdict in readiness()}
    ok = set(checks.values()) == {"ok"}
    body = {"status": "ready" if ok else "not ready", "checks": checks}
    return Response(orjson.dumps(body), 200 if ok else 503, mimetype="application/json")


@door.route("/metrics", action=Action.NOTHING_SECRET, context="none", about=About(announced=False))
def metrics() -> Response:
    """What is owed and what ran, in the Prometheus text format; 404 unless enabled."""
    if not running.config().metrics_enabled:
        raise NotFound
    return Response(_metrics(), mimetype="text/plain; version=0.0.4")


def readiness() -> list[Verdict]:
    return [_ask(*check) for check in (("database", _database), ("valkey", _valkey), ("migrations", _migrations))]


def preconditions() -> Iterator[Verdict]:
    """What must hold before a process may work at all: the wall between tenants, the schema, the key, keys to sign
    with. Each is asked only once those before it are told."""
    yield _ask("database", _database)
    yield _ask("application role", _application_role)
    yield _ask("platform role", _platform_role)
    yield _ask("migrations", _migrations)
    yield _ask("key", key_check)
    yield _ask("signing keys", _provide_signing_keys)


def examination() -> list[Verdict]:
    """Everything `scaikey doctor` looks at."""
    checks: list[tuple[str, Callable[[], Verdict]]] = [
        ("database", _database),
        ("application role", _application_role),
        ("platform role", _platform_role),
        ("owner role", _owner_role),
        ("migrations", _migrations),
        ("key", key_check),
        ("signing keys", signing_keys),
        ("clock", _clock),
        ("valkey", _valkey),
        ("upstreams", _upstreams),
    ]
    return [*(_ask(*check) for check in checks), *each_provider(), *each_target()]


def _ask(name: str, check: Callable[[], Verdict]) -> Verdict:
    try:
        return check()
    except (sa.exc.SQLAlchemyError, redis.RedisError, OSError) as error:
        lines = str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__]
        return Verdict(name, False, lines[0], "See that it runs and that its URL is right.")


def _database() -> Verdict:
    with db.engine.connect() as connection:
        number, comparable = connection.exec_driver_sql(
            "SELECT current_setting('server_version'), current_setting('server_version_num')::int"
        ).one()
    if comparable < OLDEST_POSTGRESQL * 10_000:
        mend = f"PostgreSQL {OLDEST_POSTGRESQL} or newer is needed."
        return Verdict("database", False, f"PostgreSQL {number} is too old", mend)
    return Verdict("database", True, f"PostgreSQL {number}")


def _valkey() -> Verdict:
    client = redis.Redis.from_url(running.config().redis_url or "", socket_timeout=2, socket_connect_timeout=2)
    try:
        client.ping()
    finally:
        client.close()
    return Verdict("valkey", True, "answers")


def _migrations() -> Verdict:
    with db.engine.connect() as connection:
        found = migrations.current(connection)
    if found == migrations.head():
        return Verdict("migrations", True, f"at {found}")
    return Verdict(
        "migrations", False, f"at {found or 'nothing'}, and {migrations.head()} is needed", "Run `scaikey migrate`."
    )


_ROLE = """
    SELECT r.rolname, r.rolsuper, r.rolbypassrls, EXISTS (
        SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'public' AND pg_has_role(r.oid, c.relowner, 'MEMBER')) AS owns
    FROM pg_roles r WHERE r.rolname = current_user
"""


def _application_role() -> Verdict:
    with db.engine.connect() as connection:
        role = connection.exec_driver_sql(_ROLE).one()
    wrong = [
        text
        for bad, text in (
            (role.rolsuper, "is a superuser"),
            (role.rolbypassrls, "bypasses row-level security"),
            (role.owns, "owns the tables"),
        )
        if bad
    ]
    if wrong:
        found = f"{role.rolname} {' and '.join(wrong)}"
        return Verdict("application role", False, found, "Give DATABASE_URL the role scaikey_app.")
    return Verdict("application role", True, f"{role.rolname} sees only the tenant it names")


def _platform_role() -> Verdict:
    with platform_scope() as session:
        role = session.execute(sa.text(_ROLE)).one()
    if role.rolsuper or role.owns or not role.rolbypassrls:
        found = f"{role.rolname} has other rights than the platform role"
        return Verdict("platform role", False, found, "Give SCAIKEY_PLATFORM_DATABASE_URL the role scaikey_platform.")
    return Verdict("platform role", True, f"{role.rolname} spans tenants and owns nothing")


_FOREIGN_TABLES = """
    SELECT current_user, count(c.oid) FROM pg_roles r LEFT JOIN (
        pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'public' AND c.relkind IN ('r', 'p')
    ) ON c.relowner <> r.oid
    WHERE r.rolname = current_user
"""


def _owner_role() -> Verdict:
    engine = sa.create_engine(
        running.config().owner_database_url or "",
        poolclass=sa.NullPool,
        connect_args={"connect_timeout": CONNECT_TIMEOUT},
        hide_parameters=True,
    )
    with engine.connect() as connection:
        name, foreign = connection.exec_driver_sql(_FOREIGN_TABLES).one()
    if foreign:
        mend = "Give SCAIKEY_OWNER_DATABASE_URL the role scaikey_owner."
        return Verdict("owner role", False, f"{name} does not own {foreign} of the tables", mend)
    return Verdict("owner role", True, f"{name} owns the tables")


def key_check() -> Verdict:
    """Whether our key is the one this database's secrets are sealed under; the first to ask says which that is."""
    own = running.vault().key_id
    fact = sa.select(PlatformFact.value).where(PlatformFact.name == KEY_FACT)
    with platform_scope() as session:
        session.execute(
            sa.text("INSERT INTO platform_facts (name, value) VALUES (:name, :value) ON CONFLICT DO NOTHING"),
            {"name": KEY_FACT, "value": own},
        )
        kept = session.execute(fact).scalar_one()
    if bytes(kept) == own:
        return Verdict("key", True, f"the key {own.hex()} is the one secrets are sealed under")
    found = f"secrets are sealed under the key {bytes(kept).hex()}, and ours is {own.hex()}"
    return Verdict("key", False, found, "Set SCAIKEY_SECRET_KEY to the key this database was begun with.")


def _provide_signing_keys() -> Verdict:
    """The first process to start makes them: only it is known to hold the key they are sealed under."""
    with platform_scope():
        keys.provide()
    return Verdict("signing keys", True, "there")


def signing_keys() -> Verdict:
    """Whether there is a key of each algorithm to sign with, and one to follow it."""
    try:
        with platform_scope():
            known = keys.everything()
            flaw = keys.check() if known else None
            signing = [(key.algorithm, key.id, key.activated_at) for key in known if key.status == "current"]
    except VaultError as error:
        flaw = str(error)
    if flaw:
        return Verdict("signing keys", False, flaw, "Start a process to make what is missing; restore what is damaged.")
    if not signing:
        return Verdict("signing keys", True, "none yet: the first process that starts makes them")
    now = datetime.now(UTC)
    shown = (f"{algorithm} {kid[:8]} for {(now - (since or now)).days} days" for algorithm, kid, since in signing)
    return Verdict("signing keys", True, ", ".join(shown))


def _clock() -> Verdict:
    with db.engine.connect() as connection:
        before = time.monotonic()
        there = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        took = time.monotonic() - before
    skew = abs((datetime.now(UTC) - there).total_seconds())
    if skew > 5 + took:
        return Verdict("clock", False, f"{skew:.1f} s apart from the database's", "Synchronise both clocks.")
    return Verdict("clock", True, f"within {max(skew, 0.001):.3f} s of the database's")


def _upstreams() -> Verdict:
    """Whether what is to be read is being read."""
    depth, age = queue.backlog()
    if age > _LATE:
        found = f"{depth} wait to be read, the first for {age:.0f} s"
        return Verdict("upstreams", False, found, "See that workers (`scaikey worker`) and the clock run.")
    return Verdict("upstreams", True, f"{depth} wait to be read")


def each_provider(*, tenant_id: str | None = None) -> Iterator[Verdict]:
    """How the last run of each went, and what its own connector says of it now; of one tenant or of all."""
    theirs = sa.select(IdentityProvider, Tenant).join(Tenant, _THEIRS).where(_ENABLED)
    if tenant_id is not None:
        theirs = theirs.where(Tenant.id == tenant_id)
    try:
        with platform_scope() as session:
            rows = session.execute(theirs).all()
            known = [(_scope(tenant), row.id, row.name) for row, tenant in rows]
    except sa.exc.SQLAlchemyError as error:
        yield Verdict("providers", False, type(error).__name__)
        return
    yield from _side_by_side(_provider, known)


def _scope(tenant: Tenant) -> Scope:
    return Scope(tenant.id, tenant.partner_id, tenant.kind, tenant.slug)  # type: ignore[arg-type]


def _side_by_side(
    ask: Callable[[Scope, str, str], Verdict], known: Sequence[tuple[Scope, str, str]]
) -> Iterator[Verdict]:
    """A verdict on each, in their order; `ask` is told the scope, the id and the name."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]

    def asked(each: tuple[Scope, str, str]) -> Verdict:
        with app.app_context():
            return ask(*each)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(asked, known)


def _provider(scope: Scope, provider_id: str, name: str) -> Verdict:
    name = f"{scope.slug}: {name}"
    try:
        return _asked(scope, provider_id, name)
    except Misconfigured as flaw:
        return Verdict(name, False, str(flaw), "Correct the settings of the provider.")
    except VaultError as error:
        return Verdict(name, False, str(error), "Give the provider its secrets again.")


def _asked(scope: Scope, provider_id: str, name: str) -> Verdict:
    with unit(scope) as session:
        row = session.get_one(IdentityProvider, (scope.tenant_id, provider_id))
        last = session.scalar(
            sa.select(SyncRun).where(SyncRun.provider_id == provider_id).order_by(SyncRun.no.desc()).limit(1)
        )
        status, problem = (last.status, last.problem or last.hold_reason) if last else ("", None)
        provider = connections.provider_of(row)
    if status == "failed":
        return Verdict(name, False, f"its last run failed: {problem}", "Mend it, then start a run.")
    config = kinds.config_from(provider.kind, provider.config)
    with connections.diagnosis_of(provider, config, upstream.callback_url(scope, provider_id)) as diagnosis:
        steps = list(diagnosis.steps()) if diagnosis is not None else []
    wrong = next((step for step in steps if not step.ok), None)
    if wrong is not None:
        return Verdict(name, False, f"{wrong.name}: {wrong.found}", wrong.mend)
    if status == "held":
        return Verdict(name, True, f"removals wait for an administrator: {problem}")
    return Verdict(name, True, f"{len(steps)} checks passed" if steps else "reads exported files")


def each_target() -> Iterator[Verdict]:
    """Whether each target that is to be served can be, and how it stands."""
    statement = (
        sa.select(ScimTarget.id, Application.name, Tenant)
        .join(Tenant, (Tenant.id == ScimTarget.tenant_id) & (Tenant.status == "active"))
        .join(Application, (Application.id == ScimTarget.application_id) & Application.enabled)
        .order_by(Tenant.slug, ScimTarget.id)
    )
    try:
        with platform_scope() as session:
            known = [(_scope(tenant), id, name) for id, name, tenant in session.execute(statement)]
    except sa.exc.SQLAlchemyError as error:
        yield Verdict("targets", False, type(error).__name__)
        return
    yield from _side_by_side(_target, known)


def _target(scope: Scope, target_id: str, name: str) -> Verdict:
    name, steps = f"{scope.slug}: {name} ({target_id})", list(push.examine(scope, target_id))
    wrong = next((step for step in steps if not step.ok), None)
    if wrong is not None:
        return Verdict(name, False, f"{wrong.name}: {wrong.found}", wrong.mend)
    told = [step.found for step in steps if step.name in ("status", "profile", "deliveries")]
    return Verdict(name, True, f"{len(steps)} checks passed; {'; '.join(told)}")


_AGES = """
    SELECT tenant_id, id, extract(epoch FROM now() - coalesce(succeeded_at, created_at)) FROM identity_providers
    WHERE enabled AND (sync ->> 'enabled')::boolean ORDER BY tenant_id, id
"""
_PUSH = """
    SELECT count(*) FILTER (WHERE status = 'pending'),
           coalesce(extract(epoch FROM now() - min(owed_at) FILTER (WHERE status = 'pending')), 0),
           (SELECT count(*) FROM scim_targets WHERE status = 'quarantined'),
           (SELECT count(*) FROM target_drifts WHERE NOT ignored)
    FROM deliveries
"""
_AT_ONCE = 8
"""Providers, or targets, asked at a time: those that do not answer keep the others waiting."""
_LATE = 300.0
"""Seconds after which a run that nobody begins tells of a worker that is gone."""
_THEIRS = Tenant.id == IdentityProvider.tenant_id
_ENABLED = IdentityProvider.enabled & (Tenant.status == "active")


def _metrics() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# TYPE scaikey_build_info gauge"
    yield f'scaikey_build_info{{version="{version("scaikey")}"}} 1'
    with platform_scope() as session:
        for name, status in (("scaikey_deliveries", Delivery.status), ("scaikey_sync_runs", SyncRun.status)):
            yield f"# TYPE {name} gauge"
            for counted in session.execute(sa.select(status, sa.func.count()).group_by(status)):
                yield f'{name}{{status="{counted[0]}"}} {counted[1]}'
        held = session.scalar(sa.select(sa.func.count()).where(HeldRemoval.status == "held"))
        yield from _gauge("scaikey_sync_held_removals", "Removals that wait for an administrator.", held or 0)
        yield "# HELP scaikey_sync_last_good_age_seconds Since the last run of a followed upstream that ended well."
        yield "# TYPE scaikey_sync_last_good_age_seconds gauge"
        for tenant, provider, seconds in session.execute(sa.text(_AGES)):
            yield f'scaikey_sync_last_good_age_seconds{{tenant="{tenant}",provider="{provider}"}} {seconds:.0f}'

        depth, age, targets, drift = session.execute(sa.text(_PUSH)).one()
    yield from _gauge("scaikey_push_queue_depth", "Deliveries that are to be sent.", depth)
    yield from _gauge("scaikey_push_queue_age_seconds", "How long the first of them has been owed.", age)
    yield from _gauge("scaikey_push_quarantined_targets", "Targets that did nothing but fail for a day.", targets)
    yield from _gauge("scaikey_push_drift", "Objects at targets that are not as they should be.", drift)
    depth, age = queue.backlog()
    yield from _gauge("scaikey_sync_queue_depth", "Upstreams that are due and are not being read.", depth)
    yield from _gauge("scaikey_sync_queue_age_seconds", "How long the first of them has been waiting.", age)


def _gauge(name: str, help: str, value: float) -> Iterator[str]:
    yield f"# HELP {name} {help}"
    yield f"# TYPE {name} gauge"
    yield f"{name} {value:g}"

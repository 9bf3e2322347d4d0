"""The digest of everything a tenant holds, by which an effect is noticed whoever had it."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg

from broker.models import Base
from tests.journeys.holdings import Realm

_KEPT = {
    "events": """
        AND NOT (t.name = 'write.refused' AND EXISTS (
            SELECT FROM (
                SELECT r.tenant_id FROM resources r WHERE r.id = t.actor_id
                UNION ALL SELECT s.tenant_id FROM scim_tokens s WHERE s.id = t.actor_id) who
            JOIN tenants a ON a.id = who.tenant_id
            JOIN tenants b ON b.id = t.tenant_id
            WHERE a.id = b.id OR a.kind = 'platform' OR (a.kind = 'home' AND a.partner_id = b.partner_id)))
    """
}


class Ledger:
    """Notices effects: the digest of everything each holding has, taken anew only after somebody wrote something.

    Left out is what is written by asking: when a token was last used, and that a write was refused, in the log of
    whoever asked or of a tenant below him.
    """

    def __init__(self, platform_url: str, realm: Realm) -> None:
        self._realm = realm
        self._connection = psycopg.connect(platform_url.replace("postgresql+psycopg:", "postgresql:"), autocommit=True)
        self._statement = " UNION ALL ".join(self._parts())
        self._moment = ""
        self.digests: dict[str, dict[str, str]] = {}
        self.taken = 0
        self.changed()

    def close(self) -> None:
        self._connection.close()

    def _parts(self) -> Iterable[str]:
        row = "md5((to_jsonb(t) - 'last_used_at')::text)"
        for table in Base.metadata.sorted_tables:
            owner = {"tenants": "id", "partners": "id", "setting_values": "owner_id"}.get(table.name, "tenant_id")
            if owner in table.c:
                yield (
                    f"SELECT {owner}, '{table.name}', md5(string_agg({row}, '' ORDER BY {row})) "
                    f"FROM {table.name} t WHERE {owner} = ANY(%(owners)s) {_KEPT.get(table.name, '')} GROUP BY {owner}"
                )

    def changed(self) -> dict[str, set[str]]:
        """The holdings and partners whose rows differ from the last time, with the tables."""
        moment = self._connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()
        assert moment is not None
        if moment[0] == self._moment:
            return {}
        self._moment = moment[0]
        names = {holding.tenant_id: name for name, holding in self._realm.holdings.items()}
        names |= {id: f"partner {name}" for name, id in self._realm.partners.items()}
        names["platform"] = "settings of the platform"
        found: dict[str, dict[str, str]] = {name: {} for name in names.values()}
        for owner, table, digest in self._connection.execute(self._statement, {"owners": list(names)}, prepare=True):
            found[names[owner]][table] = digest
        before, self.digests = self.digests, found
        self.taken += 1
        return {
            name: tables
            for name in found.keys() & before.keys()
            if (tables := {table for table, _ in found[name].items() ^ before[name].items()})
        }

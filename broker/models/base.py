"""What every table shares: the declarative base, column types, tenant ownership.

A class that inherits `TenantOwned` belongs to one tenant: the session adds the tenant condition, PostgreSQL's
row-level security enforces it, and every foreign key between such tables is composite `(tenant_id, …)`.
`DirectoryOwned` tables are written by `broker.directory` alone.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import BigInteger, DateTime, ForeignKeyConstraint, LargeBinary, MetaData, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

Key = Annotated[str, mapped_column(Text(collation="C"))]
"""Ids, slugs and folded keys: compared by bytes, so that `=` and ranges use their index under a policy."""
Moment = Annotated[datetime, mapped_column(DateTime(timezone=True))]
Json = Annotated[Any, mapped_column(JSONB)]
Bytes = Annotated[bytes, mapped_column(LargeBinary)]
Big = Annotated[int, mapped_column(BigInteger)]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text(), dict[str, Any]: JSONB, list[Any]: JSONB, list[str]: JSONB}


class Stamped:
    created_at: Mapped[Moment] = mapped_column(server_default=func.now(), sort_order=900)
    updated_at: Mapped[Moment] = mapped_column(server_default=func.now(), onupdate=func.now(), sort_order=901)


class TenantOwned:
    """Rows of one tenant. The primary key of a table begins with `tenant_id`."""

    @declared_attr
    @classmethod
    def tenant_id(cls) -> Mapped[str]:
        return mapped_column(Text(collation="C"), primary_key=True, sort_order=-10)


class DirectoryOwned(TenantOwned):
    """Tables that only `broker.directory` writes."""


def belongs_to_tenant() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["tenant_id"], ["tenants.id"], ondelete="CASCADE")


def same_tenant(column: str, target: str, *, ondelete: str = "CASCADE") -> ForeignKeyConstraint:
    """A foreign key that cannot leave the tenant: `(tenant_id, column)` to `(tenant_id, target column)`."""
    table, target_column = target.split(".")
    return ForeignKeyConstraint(
        ["tenant_id", column], [f"{table}.tenant_id", f"{table}.{target_column}"], ondelete=ondelete
    )

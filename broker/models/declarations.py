"""What tenants declare of their own: attributes that the catalogue does not have.

The declarations are written by `broker.directory` alone, like the values that people and groups carry; those are in the
documents, under the URN of the tenant's extension, and in the value index.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Index, SmallInteger, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, DirectoryOwned, Key, Stamped, belongs_to_tenant

TYPES = ("string", "boolean", "decimal", "integer", "dateTime", "reference", "binary")
"""The simple types of RFC 7643 §2.3."""


class CustomAttribute(Stamped, DirectoryOwned, Base):
    """One attribute that a tenant has declared for its people or its groups."""

    __tablename__ = "custom_attributes"
    __table_args__ = (
        belongs_to_tenant(),
        CheckConstraint("resource_type IN ('User', 'Group')", "resource_type"),
        CheckConstraint(f"type IN {TYPES}", "type"),
        CheckConstraint("uniqueness IN ('none', 'server')", "uniqueness"),
        CheckConstraint("mutability IN ('readWrite', 'immutable')", "mutability"),
        Index("uq_custom_attributes_name", "tenant_id", "resource_type", "name_key", unique=True),
        UniqueConstraint("tenant_id", "number"),
    )

    id: Mapped[Key] = mapped_column(primary_key=True)
    resource_type: Mapped[Key] = mapped_column(server_default="User")
    name: Mapped[str]
    name_key: Mapped[Key]
    type: Mapped[str] = mapped_column(server_default="string")
    multi_valued: Mapped[bool] = mapped_column(server_default=text("false"))
    case_exact: Mapped[bool] = mapped_column(server_default=text("false"))
    uniqueness: Mapped[str] = mapped_column(server_default="none")
    mutability: Mapped[str] = mapped_column(server_default="readWrite")
    filterable: Mapped[bool] = mapped_column(server_default=text("false"))
    canonical_values: Mapped[list[str]] = mapped_column(JSONB, server_default=text("'[]'"))
    """The only values it takes, where there are any."""
    description: Mapped[str | None]
    number: Mapped[int] = mapped_column(SmallInteger)
    """Its place in the value index, where the catalogue's attributes have theirs; from `UNIQUE_FROM` on, each value is
    one resource's at most."""


UNIQUE_FROM = 20_000

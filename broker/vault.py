"""Secrets at rest: each value sealed under its own key, and that key wrapped by the house's key.

Owns the sealed form and its cryptography (AES-256-GCM twice). Table, column, tenant and row are associated
data of both layers: a sealed value copied to another place does not open there. Changing the key-encryption
key rewraps 32 bytes per value and leaves payloads alone. Where the key comes from is `config`'s matter;
hashes of credentials are `credentials`'.

Sealed form: version (1) | key id (8) | nonce (12) | wrapped key (48) | nonce (12) | payload and tag (16 more).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = b"\x01"
_KEY = 32
_NONCE = 12
_TAG = 16
_ID = slice(1, 9)
_WRAPPED = slice(9, 9 + _NONCE + _KEY + _TAG)
_HEADER = _WRAPPED.stop
_OVERHEAD = _HEADER + _NONCE + _TAG


class VaultError(Exception):
    """The value cannot be opened: damaged, moved from another place, or sealed under a key we do not hold."""


class Vault:
    """Seals under `kek`; opens also what any of the `earlier` keys sealed, until `rewrap` has moved it."""

    def __init__(self, kek: bytes, earlier: Sequence[bytes] = ()) -> None:
        if any(len(key) != _KEY for key in (kek, *earlier)):
            raise ValueError("a key-encryption key is 32 bytes")
        self.key_id = _key_id(kek)
        self._keys = {_key_id(key): AESGCM(key) for key in (*earlier, kek)}

    def seal(self, plaintext: bytes, *, table: str, column: str, tenant: str, row: str) -> bytes:
        """The value as it may be stored at that place; `tenant` is empty for a platform row."""
        place = _place(table, column, tenant, row)
        key, nonce = os.urandom(_KEY), os.urandom(_NONCE)
        return self._header(key, place) + nonce + AESGCM(key).encrypt(nonce, plaintext, place)

    def open(self, sealed: bytes, *, table: str, column: str, tenant: str, row: str) -> bytes:
        """The value sealed for that place. Raises VaultError."""
        place = _place(table, column, tenant, row)
        key = self._unwrap(sealed, place)
        nonce, payload = sealed[_HEADER : _HEADER + _NONCE], sealed[_HEADER + _NONCE :]
        try:
            return AESGCM(key).decrypt(nonce, payload, place)
        except InvalidTag:
            raise VaultError("a sealed value is damaged") from None

    def rewrap(self, sealed: bytes, *, table: str, column: str, tenant: str, row: str) -> bytes:
        """The same sealed value under the present key; unchanged when it is there already. Raises VaultError."""
        place = _place(table, column, tenant, row)
        key = self._unwrap(sealed, place)
        if sealed[_ID] == self.key_id:
            return sealed
        return self._header(key, place) + sealed[_HEADER:]

    def _header(self, key: bytes, place: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return _VERSION + self.key_id + nonce + self._keys[self.key_id].encrypt(nonce, key, _wrapping(place))

    def _unwrap(self, sealed: bytes, place: bytes) -> bytes:
        if len(sealed) < _OVERHEAD or sealed[:1] != _VERSION:
            raise VaultError("a sealed value is cut short or of an unknown version")
        kek = self._keys.get(sealed[_ID])
        if kek is None:
            raise VaultError(f"a value is sealed under the key {sealed[_ID].hex()}, which is not at hand")
        wrapped = sealed[_WRAPPED]
        try:
            return kek.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _wrapping(place))
        except InvalidTag:
            raise VaultError("a sealed value is damaged or was sealed for another place") from None


def _place(*parts: str) -> bytes:
    """The four names with their lengths before them, so that no two places read alike."""
    return _VERSION + b"".join(struct.pack(">I", len(part)) + part for part in (name.encode() for name in parts))


def _wrapping(place: bytes) -> bytes:
    """What binds the wrapped key to its place and keeps it from passing for a payload."""
    return b"key" + place


def _key_id(kek: bytes) -> bytes:
    """A name that tells keys apart and says nothing of the key; also the check value at the start."""
    return hashlib.sha256(b"scaikey key-encryption key\0" + kek).digest()[:8]

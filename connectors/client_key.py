"""The private key by which we prove ourselves to somebody's token endpoint (`private_key_jwt`, RFC 7523).

Reads a key an administrator gave, and says by which algorithm and under which name it signs. Making assertions with
it is its users': a provider's client, and a target's.
"""

from __future__ import annotations

import json

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

LEAST_BITS = 2_048
"""Of an RSA key."""
WANTED = "Has to be an RSA key of 2048 bits or more, or an EC key, as unencrypted PEM or as JWK."

_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


def signer(text: str) -> tuple[RSAKey | ECKey, str, str]:
    """A private key (PEM or JWK), its algorithm and its name. Raises ValueError for what is none."""
    try:
        key: RSAKey | ECKey
        if text.lstrip().startswith("{"):
            jwk = json.loads(text)
            key = RSAKey.import_key(jwk) if jwk.get("kty") == "RSA" else ECKey.import_key(jwk)
        else:
            native = load_pem_private_key(text.encode(), password=None)
            key = RSAKey.import_key(text) if isinstance(native, rsa.RSAPrivateKey) else ECKey.import_key(text)
        private = key.private_key
        kid = key.kid or key.thumbprint()
        if isinstance(key, RSAKey) and isinstance(private, rsa.RSAPrivateKey) and private.key_size >= LEAST_BITS:
            return key, "RS256", kid
        if isinstance(key, ECKey) and isinstance(private, ec.EllipticCurvePrivateKey):
            return key, _CURVES[key.curve_name], kid
    except (JoseError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm) as error:
        raise ValueError("no usable private key") from error
    raise ValueError("no usable private key")

"""Why signing in at an OpenID provider does not work: one step after the other, each with its mend.

Nothing is taken from the caches. The client's credential is tried with a code that does not exist: a provider checks
the client first, and says which of the two it does not like.
"""

from __future__ import annotations

from collections.abc import Iterator

from joserfc.jws import JWSRegistry

from connectors.http import Response
from connectors.openid import client
from connectors.openid.config import Config
from connectors.openid.metadata import Metadata, Source
from connectors.port import Misconfigured, Refused, Step, UpstreamError

_NO_CODE = "scaikey-diagnosis"


def steps(config: Config, source: Source, callback: str) -> Iterator[Step]:
    """The steps in order; what a failed one makes pointless does not follow."""
    try:
        answer = source.reach("GET", source.discovery_url, "The provider")
    except UpstreamError as error:
        mend = (
            "Check the issuer's host and port. A provider inside your network has to be named to the operator first."
            if isinstance(error, Misconfigured)
            else "Check the issuer's host, the firewall, and the certificate; its own authority goes into `ca`."
        )
        yield Step("connection", False, str(error), mend)
        return
    yield Step("connection", True, f"{source.discovery_url} answers.")
    try:
        metadata = source.read(answer)
    except UpstreamError as error:
        yield Step("discovery", False, str(error), _discovery_mend(error, answer))
        return
    yield Step("discovery", True, f"The provider calls itself {metadata.issuer}, and its endpoints can be used.")
    yield _manners(config, metadata)
    yield _keys(config, source, metadata)
    yield _client(config, source, metadata, callback)
    if callback:
        text = f"People come back to {callback}; the provider has to know exactly this redirect URI."
        yield Step("redirect_uri", True, text, "Register it with the client at the provider, if it is not yet.")


def _discovery_mend(error: UpstreamError, answer: Response) -> str:
    if isinstance(error, Misconfigured) and "issuer" in error.fields:
        return "Enter the issuer exactly as the provider writes it, to the last slash."
    if 300 <= answer.status < 400:
        return "Enter the issuer at the address the provider has moved to."
    if answer.status != 200:
        return "The issuer is the part before `/.well-known/openid-configuration`: check its path."
    return "This is no usable discovery document: check the issuer, and the provider's own configuration."


def _manners(config: Config, metadata: Metadata) -> Step:
    """Whether the provider can do what the settings ask of it, as far as it says what it can."""
    for names, ours, mend in (
        ("response_modes_supported", config.response_mode, "Choose another `response_mode`."),
        ("response_types_supported", "code", "Allow the authorization code flow at the provider."),
        ("code_challenge_methods_supported", "S256", "Allow PKCE with S256 at the provider."),
        (
            "token_endpoint_auth_methods_supported",
            config.token_endpoint_auth_method,
            "Choose another `token_endpoint_auth_method`.",
        ),
    ):
        listed = metadata.said.get(names)
        if isinstance(listed, list) and ours not in listed:
            return Step("abilities", False, f"The provider's {names} do not include {ours}.", mend)
    signs_out = "can" if metadata.end_session_endpoint else "cannot"
    return Step(
        "abilities", True, f"The provider can what is asked of it. Its own session {signs_out} be ended from here."
    )


def _keys(config: Config, source: Source, metadata: Metadata) -> Step:
    try:
        keys = source.keys(metadata, fresh=True)
    except UpstreamError as error:
        return Step("keys", False, str(error), "The provider has to publish its signing keys at its jwks_uri.")
    fit = [algorithm.name for algorithm in JWSRegistry.filter_algorithms(keys, config.algorithms)]
    signs = metadata.said.get("id_token_signing_alg_values_supported")
    if isinstance(signs, list):
        fit = [name for name in fit if name in signs]
    count = len(keys.keys)
    if not fit:
        return Step(
            "keys",
            False,
            f"Of the {count} keys that could sign, none fits the algorithms {', '.join(config.algorithms)}.",
            "Have the provider sign this client's ID tokens with one of them, or add its algorithm to `algorithms`.",
        )
    return Step("keys", True, f"{count} key{'s' if count != 1 else ''}, for {', '.join(fit)}.")


def _client(config: Config, source: Source, metadata: Metadata, callback: str) -> Step:
    if config.token_endpoint_auth_method == "none":
        return Step("client", True, "The client has no credential; PKCE alone protects the code.")
    try:
        client.redeem(config, metadata, source, callback, _NO_CODE, _NO_CODE)
    except Misconfigured as error:
        mend = "Check client_id and client_secret; some providers understand only client_secret_post."
        if config.token_endpoint_auth_method == "private_key_jwt":
            name = client.key_id(config)
            mend = f"Register the public half of the key ({name}) at the provider, or change `assertion_audience`."
        return Step("client", False, str(error), mend)
    except Refused as error:
        if error.code == "invalid_grant":
            return Step("client", True, "The provider takes us for its client.")
        return Step("client", True, f"The provider does not say whether it takes us for its client: {error}")
    except UpstreamError as error:
        return Step("client", False, str(error), "The token endpoint has to be reachable from here.")
    return Step("client", True, "The token endpoint answers.")

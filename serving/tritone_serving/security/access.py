"""Access control of a server: its flags for TLS, the admin token and the API key.

Triton checks one header for each group of APIs. Two groups are closed here: administration always, what callers use
if there is a key. `health` stays open, for probes have no secrets and learn nothing but whether there is an answer.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tritone_serving._exceptions import OptionsError
from tritone_serving.admin import ADMIN_HEADER, RESTRICTED_APIS

if TYPE_CHECKING:
    from tritone.endpoints import Endpoint
    from tritone_serving.server.options import ServerOptions

# What the SDK sends its key as; over gRPC Triton looks for it under the prefix `triton-grpc-protocol-`.
KEY_HEADER: Final = "authorization"
KEY_APIS: Final = ("inference", "metadata", "model-config", "statistics")
SHORTEST_SECRET: Final = 8


def check_access(options: ServerOptions) -> None:
    """Check the options for access control.

    Raises:
        OptionsError: says which option is wrong.
    """
    for name in ("admin_token", "api_key"):
        _check_secret(name, getattr(options, name))
    if options.api_key is not None and options.api_key == options.admin_token:
        raise OptionsError("api_key and admin_token are the same; callers would be administrators: use two secrets")
    if (options.tls_cert is None) != (options.tls_key is None):
        raise OptionsError("tls_cert and tls_key belong together: give both or neither")
    if options.tls_client_ca is not None and options.tls_cert is None:
        raise OptionsError("tls_client_ca asks callers for a certificate, which takes TLS: give tls_cert and tls_key")
    for name in ("tls_cert", "tls_key", "tls_client_ca"):
        path = getattr(options, name)
        if path is None:
            continue
        try:
            is_pem = b"-----BEGIN " in path.read_bytes()
        except OSError as error:
            raise OptionsError(f"{name} is {path}, which cannot be read: {error.strerror}") from error
        if not is_pem:
            raise OptionsError(f"{name} is {path}, which holds no PEM; expected a text with -----BEGIN ...-----")


def access_flags(options: ServerOptions, token: str) -> list[str]:
    """Return the server's flags for secrets and TLS.

    2.51 takes secrets from its command line and from nowhere else; see `admin_token.wipe_from_command_line`.
    """
    groups = [f"{','.join(RESTRICTED_APIS)}:{ADMIN_HEADER}={token}"]
    if options.api_key is not None:
        groups.append(f"{','.join(KEY_APIS)}:{KEY_HEADER}=Bearer {options.api_key}")
    flags = [f"--{flag}={group}" for group in groups for flag in ("http-restricted-api", "grpc-restricted-protocol")]
    if options.tls_cert is not None and options.tls_key is not None:
        flags += [
            "--grpc-use-ssl=true",
            f"--grpc-server-cert={options.tls_cert.absolute()}",
            f"--grpc-server-key={options.tls_key.absolute()}",
        ]
    if options.tls_client_ca is not None:
        flags += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={options.tls_client_ca.absolute()}"]
    return flags


def own_endpoint(options: ServerOptions, grpc_url: str) -> Endpoint:
    """Return the gRPC endpoint for the process that started the server: with its API key and its certificate.

    Under mutual TLS the server's own certificate is shown to it, which it takes if the same authority has signed it,
    for clients too.

    Args:
        options: what the server runs with.
        grpc_url: `host:port`, of a server that is up.

    Raises:
        OptionsError: the server's certificate bears no name.
        OSError: the server is not there, or ends the handshake.
    """
    from tritone.endpoints import make_endpoint

    if options.tls_cert is None:
        return make_endpoint(grpc_url, api_key=options.api_key)
    is_mutual = options.tls_client_ca is not None
    endpoint = make_endpoint(
        f"grpcs://{grpc_url}",
        api_key=options.api_key,
        ca_file=options.tls_cert,
        client_cert_file=options.tls_cert if is_mutual else None,
        client_key_file=options.tls_key if is_mutual else None,
    )
    return replace(endpoint, tls_name=_name_of(endpoint))


def _name_of(endpoint: Endpoint) -> str:
    """Return a host name in the server's certificate, which need not include the loopback address."""
    context = endpoint.ssl_context()
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # what is trusted is the certificate itself
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((endpoint.host, endpoint.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=endpoint.host) as secured,
    ):
        certificate: dict[str, Any] = dict(secured.getpeercert() or {})
    names = [name for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    if not names:
        raise OptionsError("tls_cert bears no name (subjectAltName), so no caller can tell that it is this server's")
    return str(names[0]).replace("*", "any")


def _check_secret(name: str, secret: str | None) -> None:
    if secret is None:
        return
    # The flags are written `api,api:header=secret`, so some characters would end the secret early.
    if not (secret.isascii() and secret.isprintable()):
        raise OptionsError(f"{name} holds characters that an HTTP header cannot carry; use ASCII")
    if len(secret) < SHORTEST_SECRET or set(secret) & set(" =:,"):
        raise OptionsError(f"{name} must have {SHORTEST_SECRET} characters or more, and no space, '=', ':' or ','")

"""Access control of a server: its flags for TLS, the admin token and the API key.

Triton checks one header for each group of APIs. Administration always requires the admin token; inference, metadata,
configurations and statistics require the API key if there is one. `health` stays open, because probes have no secrets
and learn only whether the server is ready.
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

# Header in which the SDK sends its key; over gRPC, Triton expects it with the prefix `triton-grpc-protocol-`.
KEY_HEADER: Final = "authorization"
KEY_APIS: Final = ("inference", "metadata", "model-config", "statistics")
SHORTEST_SECRET: Final = 8


def check_access(options: ServerOptions) -> None:
    """Check the options for access control.

    Raises:
        OptionsError: an option is invalid, or options do not fit each other.
    """
    for name in ("admin_token", "api_key"):
        _check_secret(name, getattr(options, name))
    if options.api_key is not None and options.api_key == options.admin_token:
        raise OptionsError(
            "invalid api_key: expected another secret than admin_token, got the same, which would make every caller an "
            "administrator; use two secrets"
        )
    if (options.tls_cert is None) != (options.tls_key is None):
        raise OptionsError(
            "invalid TLS options: expected both tls_cert and tls_key or neither, got one of them; give both"
        )
    if options.tls_client_ca is not None and options.tls_cert is None:
        raise OptionsError(
            "invalid tls_client_ca: expected TLS to be enabled, got no certificate; give tls_cert and tls_key too"
        )
    for name in ("tls_cert", "tls_key", "tls_client_ca"):
        path = getattr(options, name)
        if path is None:
            continue
        try:
            is_pem = b"-----BEGIN " in path.read_bytes()
        except OSError as error:
            raise OptionsError(
                f"invalid {name}: expected a readable PEM file, got {path} ({error.strerror})"
            ) from error
        if not is_pem:
            raise OptionsError(
                f"invalid {name}: expected a PEM file with a line -----BEGIN ...-----, got {path} without one"
            )


def access_flags(options: ServerOptions, token: str) -> list[str]:
    """Return the server's flags for secrets and TLS.

    Triton 2.51 reads secrets only from its command line; see `admin_token.wipe_from_command_line`.
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
    """Return the gRPC endpoint for the process that started the server, with the server's API key and certificate.

    With mutual TLS, the server's own certificate is used as the client's too. The server accepts it if it is signed by
    the authority for clients.

    Args:
        options: the server's options.
        grpc_url: `host:port` of a running server.

    Raises:
        OptionsError: the server's certificate contains no name.
        OSError: the server cannot be reached, or refuses the handshake.
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
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trust this certificate itself, not its authority
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((endpoint.host, endpoint.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=endpoint.host) as secured,
    ):
        certificate: dict[str, Any] = dict(secured.getpeercert() or {})
    names = [name for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    if not names:
        raise OptionsError(
            "invalid tls_cert: expected a certificate with a name (subjectAltName), got one without, which callers "
            "cannot verify"
        )
    return str(names[0]).replace("*", "any")


def _check_secret(name: str, secret: str | None) -> None:
    if secret is None:
        return
    # The flags are written `api,api:header=secret`, so some characters would end the secret early.
    if not (secret.isascii() and secret.isprintable()):
        raise OptionsError(
            f"invalid {name}: expected printable ASCII characters, got others, which an HTTP header cannot contain"
        )
    if len(secret) < SHORTEST_SECRET or set(secret) & set(" =:,"):
        raise OptionsError(
            f"invalid {name}: expected at least {SHORTEST_SECRET} characters and none of space, '=', ':' and ','"
        )

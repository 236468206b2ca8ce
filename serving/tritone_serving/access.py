"""Who may call what on a server: the flags for TLS, for the admin token and for the API key.

Triton checks one header for each group of APIs. Two groups are closed here: administration always, what callers use
if there is a key. `health` stays open, for probes have no secrets and learn nothing but whether there is an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tritone_serving._exceptions import OptionsError
from tritone_serving.admin import ADMIN_HEADER, RESTRICTED_APIS

if TYPE_CHECKING:
    from tritone_serving.options import ServerOptions

# What the SDK sends its key as; over gRPC Triton looks for it under the prefix `triton-grpc-protocol-`.
KEY_HEADER: Final = "authorization"
KEY_APIS: Final = ("inference", "metadata", "model-config", "statistics")
SHORTEST_SECRET: Final = 8


def check_access(options: ServerOptions) -> None:
    """Hold the options against what can work.

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
    """The server's flags for secrets and TLS.

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


def _check_secret(name: str, secret: str | None) -> None:
    if secret is None:
        return
    # The flags are written `api,api:header=secret`, so some characters would end the secret early.
    if not (secret.isascii() and secret.isprintable()):
        raise OptionsError(f"{name} holds characters that an HTTP header cannot carry; use ASCII")
    if len(secret) < SHORTEST_SECRET or set(secret) & set(" =:,"):
        raise OptionsError(f"{name} must have {SHORTEST_SECRET} characters or more, and no space, '=', ':' or ','")

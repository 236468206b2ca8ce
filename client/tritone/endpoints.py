"""Server endpoints: address, TLS files and the headers of every request."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tritone.exceptions import InvalidInputError
from tritone.secret_files import SecretFile

if TYPE_CHECKING:
    import ssl

DEFAULT_URL: Final = "localhost:8001"
# Triton's own ports without TLS; the standard HTTPS port with TLS, which is usually terminated by a proxy.
_DEFAULT_PORTS: Final = {"grpc": 8001, "http": 8000, "grpcs": 443, "https": 443}
_HOST: Final = re.compile(
    r"[\w-]{1,63}(\.[\w-]{1,63})*\.?|(?=.*:)[0-9a-f:.]+(%\w+)?", re.I
)  # a name, or an IPv6 address
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True)
class Endpoint:
    """The address of a server, with the headers and TLS files for its requests.

    Attributes:
        protocol: `grpc` or `http`.
        path: prefix of `/v2`, for servers behind a proxy; without a trailing slash.
        headers: names in lower case; not shown in `repr`, because they hold keys. See `current_headers`.
        api_key_file: the API key to send, if it is in a file.
        tls_name: the name expected in the server's certificate, if it differs from `host`; gRPC only.
    """

    protocol: str
    host: str
    port: int
    path: str = ""
    tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    api_key_file: SecretFile | None = None
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    tls_name: str | None = None

    @property
    def authority(self) -> str:
        """Return `host:port`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the full address, for messages and logs."""
        return f"{self.protocol}{'s' if self.tls else ''}://{self.authority}{self.path}"

    def current_headers(self) -> Mapping[str, str]:
        """Return the headers of the next request, with the key that is in the file now."""
        key = None if self.api_key_file is None else self.api_key_file.secret()
        return self.headers if key is None else {**self.headers, "authorization": f"Bearer {key}"}

    def ssl_context(self) -> ssl.SSLContext:
        """Return the TLS context for HTTPS, with `ca_file` (or the system's authorities) and the client's certificate.

        Raises:
            InvalidInputError: a file is not valid PEM, or the certificate and key do not match.
        """
        import ssl

        invalid = "ca_file"
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
            invalid = "client_cert_file"
            if self.client_cert_file:
                context.load_cert_chain(str(self.client_cert_file), str(self.client_key_file))
        except (ssl.SSLError, OSError, ValueError) as error:
            raise InvalidInputError(
                f"invalid TLS files ({error}): expected PEM files, got ca_file={self.ca_file}, "
                f"client_cert_file={self.client_cert_file}, client_key_file={self.client_key_file}",
                argument=invalid,
                reason="not_pem",
            ) from error
        return context


def make_endpoints(
    url: str | Sequence[str],
    *,
    api_key: str | None = None,
    api_key_file: SecretFile | None = None,
    headers: Mapping[str, str] | None = None,
    ca_file: str | Path | None = None,
    client_cert_file: str | Path | None = None,
    client_key_file: str | Path | None = None,
) -> tuple[Endpoint, ...]:
    """Return the endpoints of one or more servers; the key, headers and TLS files apply to all of them.

    Args:
        url: an address, comma-separated addresses, or a sequence of addresses.
        api_key: as for `make_endpoint`, like the remaining arguments.

    Raises:
        InvalidInputError: as `make_endpoint`; also if the protocols differ or an address is repeated.
    """
    several = isinstance(url, list | tuple) or (isinstance(url, str) and "," in url)
    urls: tuple[Any, ...] = (url,)  # other types are rejected by `make_endpoint`
    if several:
        urls = tuple(part.strip(" ") for part in url.split(",")) if isinstance(url, str) else tuple(url)
    endpoints = tuple(
        make_endpoint(
            each,
            api_key=api_key,
            api_key_file=api_key_file,
            headers=headers,
            ca_file=ca_file,
            client_cert_file=client_cert_file,
            client_key_file=client_key_file,
        )
        for each in urls
    )
    shown = ", ".join(endpoint.url for endpoint in endpoints)
    if not endpoints:
        raise InvalidInputError(
            "no server addresses: expected at least one, as in ['a:8001', 'b:8001'], got an empty list", argument="url"
        )
    if len({(endpoint.protocol, endpoint.tls) for endpoint in endpoints}) > 1:
        raise InvalidInputError(
            f"different protocols: expected one protocol for all servers, all with TLS or all without, got {shown}",
            argument="url",
            reason="conflict",
        )
    if len({endpoint.url for endpoint in endpoints}) < len(endpoints):
        raise InvalidInputError(
            f"duplicate server address: expected each server once, got {shown}", argument="url", reason="conflict"
        )
    return endpoints


def make_endpoint(
    url: str,
    *,
    api_key: str | None = None,
    api_key_file: SecretFile | None = None,
    headers: Mapping[str, str] | None = None,
    ca_file: str | Path | None = None,
    client_cert_file: str | Path | None = None,
    client_key_file: str | Path | None = None,
) -> Endpoint:
    """Return the endpoint of one server.

    Args:
        url: `host:port`, or an address with the scheme grpc, grpcs, http or https.
        api_key: sent as `Authorization: Bearer <api_key>`.
        api_key_file: file with the key, instead of `api_key`.
        headers: sent with every request.
        ca_file: certificate authorities in PEM; the system's by default.
        client_cert_file: the client's certificate in PEM, for mutual TLS; needs `client_key_file`.
        client_key_file: the private key of the certificate in PEM.

    Raises:
        InvalidInputError: an argument is invalid.
    """
    scheme, host, port, path = _parsed(url)
    ca_file = _checked_file("ca_file", ca_file)
    client_cert_file = _checked_file("client_cert_file", client_cert_file)
    client_key_file = _checked_file("client_key_file", client_key_file)
    files = {"ca_file": ca_file, "client_cert_file": client_cert_file, "client_key_file": client_key_file}
    if any(files.values()) and not scheme.endswith("s"):
        raise InvalidInputError(
            f"TLS files for an unencrypted address: expected grpcs:// or https://, got {url!r}; change the scheme or "
            f"omit {', '.join(files)}",
            argument=next(name for name, file in files.items() if file),
            reason="conflict",
        )
    if bool(client_cert_file) != bool(client_key_file):
        raise InvalidInputError(
            "incomplete client certificate: expected client_cert_file and client_key_file, got one; pass both or none",
            argument="client_key_file" if client_cert_file else "client_cert_file",
            reason="missing",
        )
    return Endpoint(
        protocol=scheme.rstrip("s") if scheme != "https" else "http",
        host=host,
        port=port,
        path=path,
        tls=scheme in ("grpcs", "https"),
        headers=_checked_headers(api_key, api_key_file, headers),
        api_key_file=api_key_file,
        ca_file=ca_file,
        client_cert_file=client_cert_file,
        client_key_file=client_key_file,
    )


def _parsed(url: str) -> tuple[str, str, int, str]:
    expected = "expected host:port, grpc://host:port, http://host:port, or grpcs:// and https:// for TLS"
    if not isinstance(url, str):
        raise InvalidInputError(f"invalid url: {expected}, got {type(url).__name__}", argument="url")
    if re.search(r"[\x00-\x20\x7f]", url):  # urlsplit would drop some of them silently
        raise InvalidInputError(f"url contains spaces or control characters: {expected}, got {url!r}", argument="url")
    try:
        parts = urlsplit(url if "://" in url else f"grpc://{url}")
        port = parts.port
    except ValueError as error:
        raise InvalidInputError(f"invalid url ({error}): {expected}, got {url!r}", argument="url") from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise InvalidInputError(f"unknown url scheme {parts.scheme!r}: {expected}, got {url!r}", argument="url")
    if not parts.hostname or parts.query or parts.fragment or not _HOST.fullmatch(parts.hostname):
        raise InvalidInputError(f"invalid url: {expected}, got {url!r}", argument="url")
    if parts.username is not None or parts.password is not None:
        raise InvalidInputError(
            "url contains a user name or password, which would appear in logs; pass api_key= or headers= instead",
            argument="url",
        )
    path = parts.path.rstrip("/")
    if path and parts.scheme.startswith("grpc"):
        raise InvalidInputError(f"a gRPC url cannot have a path: {expected}, got {url!r}", argument="url")
    if re.search(r"[^\x21-\x7e]", path):
        raise InvalidInputError(f"invalid url path: expected percent-encoded characters, got {url!r}", argument="url")
    return parts.scheme, parts.hostname, _DEFAULT_PORTS[parts.scheme] if port is None else port, path


def _checked_headers(
    api_key: str | None, api_key_file: SecretFile | None, headers: Mapping[str, str] | None
) -> dict[str, str]:
    if headers is not None and not isinstance(headers, Mapping):
        raise InvalidInputError(
            f"invalid headers: expected a mapping of names to values, got {type(headers).__name__}", argument="headers"
        )
    checked: dict[str, str] = {}
    for name, value in {**({} if headers is None else headers)}.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidInputError(
                f"invalid header name: expected letters, digits and '-', got {name!r}", argument="headers"
            )
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidInputError(
                f"invalid value of the header {name!r}: expected printable ASCII on one line", argument="headers"
            )
        checked[name.lower()] = value
    given = {
        "api_key": api_key is not None,
        "api_key_file": api_key_file is not None,
        "headers['authorization']": "authorization" in checked,
    }
    names = [name for name, is_given in given.items() if is_given]
    if len(names) > 1:
        raise InvalidInputError(
            f"{' and '.join(names)} are both given: expected only one of them", argument=names[0], reason="conflict"
        )
    if api_key is not None:
        if not isinstance(api_key, str) or not api_key or not _HEADER_VALUE.fullmatch(api_key):
            raise InvalidInputError(
                "invalid api_key: expected printable ASCII on one line, at least one character", argument="api_key"
            )
        checked["authorization"] = f"Bearer {api_key}"
    return checked


def _checked_file(name: str, file: str | Path | None) -> Path | None:
    if file is None:
        return None
    if not isinstance(file, str | os.PathLike):
        raise InvalidInputError(f"invalid {name}: expected the path of a file, got {file!r}", argument=name)
    path = Path(file)
    try:
        is_file = path.is_file()
    except OSError:  # the name is too long, or a folder of it cannot be read
        is_file = False
    if not is_file:
        raise InvalidInputError(
            f"invalid {name}: expected a file, but {path} does not exist or is not a file",
            argument=name,
            reason="missing",
        )
    return path

"""Where the server is and what every request to it carries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tritone.exceptions import InvalidInputError

if TYPE_CHECKING:
    import ssl

DEFAULT_URL: Final = "localhost:8001"
# Triton's own ports; with TLS there is a proxy in front, and proxies listen where browsers knock.
_DEFAULT_PORTS: Final = {"grpc": 8001, "http": 8000, "grpcs": 443, "https": 443}
_HOST: Final = re.compile(
    r"[\w-]{1,63}(\.[\w-]{1,63})*\.?|(?=.*:)[0-9a-f:.]+(%\w+)?", re.I
)  # a name, or an IPv6 address
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True)
class Endpoint:
    """A server's address and what is needed to be let in.

    Attributes:
        protocol: `grpc` or `http`.
        path: in front of `/v2`, for servers behind a proxy; without a slash at its end.
        headers: names in lower case; kept out of `repr`, for they hold keys.
        tls_name: the name to expect in the server's certificate, where it is not `host`; for gRPC.
    """

    protocol: str
    host: str
    port: int
    path: str = ""
    tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    tls_name: str | None = None

    @property
    def authority(self) -> str:
        """`host:port`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole address, for people."""
        return f"{self.protocol}{'s' if self.tls else ''}://{self.authority}{self.path}"

    def ssl_context(self) -> ssl.SSLContext:
        """What HTTPS needs: the system's authorities or `ca_file`, and the client's certificate if any.

        Raises:
            InvalidInputError: if a file does not hold what it should.
        """
        import ssl

        try:
            context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
            if self.client_cert_file:
                context.load_cert_chain(str(self.client_cert_file), str(self.client_key_file))
        except (ssl.SSLError, OSError, ValueError) as error:
            raise InvalidInputError(
                f"the TLS files cannot be used ({error}); expected PEM: ca_file={self.ca_file}, "
                f"client_cert_file={self.client_cert_file}, client_key_file={self.client_key_file}"
            ) from error
        return context


def make_endpoints(
    url: str | Sequence[str],
    *,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
    ca_file: str | Path | None = None,
    client_cert_file: str | Path | None = None,
    client_key_file: str | Path | None = None,
) -> tuple[Endpoint, ...]:
    """Read the addresses of one server or several; what goes with a request goes to all of them.

    Args:
        url: an address, several with commas between them, or a sequence of addresses.

    Raises:
        InvalidInputError: as `make_endpoint`, and if they differ in protocol or one is named twice.
    """
    several = isinstance(url, list | tuple) or (isinstance(url, str) and "," in url)
    urls: tuple[Any, ...] = (url,)  # what is no text is refused below
    if several:
        urls = tuple(part.strip(" ") for part in url.split(",")) if isinstance(url, str) else tuple(url)
    endpoints = tuple(
        make_endpoint(
            each,
            api_key=api_key,
            headers=headers,
            ca_file=ca_file,
            client_cert_file=client_cert_file,
            client_key_file=client_key_file,
        )
        for each in urls
    )
    shown = ", ".join(endpoint.url for endpoint in endpoints)
    if not endpoints:
        raise InvalidInputError("the list of addresses is empty; expected at least one, as in ['a:8001', 'b:8001']")
    if len({(endpoint.protocol, endpoint.tls) for endpoint in endpoints}) > 1:
        raise InvalidInputError(f"the servers must speak the same protocol, all with TLS or all without; got {shown}")
    if len({endpoint.url for endpoint in endpoints}) < len(endpoints):
        raise InvalidInputError(f"a server is named twice: {shown}; name each once")
    return endpoints


def make_endpoint(
    url: str,
    *,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
    ca_file: str | Path | None = None,
    client_cert_file: str | Path | None = None,
    client_key_file: str | Path | None = None,
) -> Endpoint:
    """Read a server's address and check what goes with it.

    Raises:
        InvalidInputError: says what is wrong and what was expected.
    """
    scheme, host, port, path = _parsed(url)
    if any((ca_file, client_cert_file, client_key_file)) and not scheme.endswith("s"):
        raise InvalidInputError(
            f"{url!r} is not encrypted, so ca_file and client_*_file have no use; expected grpcs:// or https://"
        )
    if bool(client_cert_file) != bool(client_key_file):
        raise InvalidInputError("client_cert_file and client_key_file belong together: give both or neither")
    return Endpoint(
        protocol=scheme.rstrip("s") if scheme != "https" else "http",
        host=host,
        port=port,
        path=path,
        tls=scheme in ("grpcs", "https"),
        headers=_checked_headers(api_key, headers),
        ca_file=_checked_file("ca_file", ca_file),
        client_cert_file=_checked_file("client_cert_file", client_cert_file),
        client_key_file=_checked_file("client_key_file", client_key_file),
    )


def _parsed(url: str) -> tuple[str, str, int, str]:
    expected = "expected host:port, grpc://host:port, http://host:port, or grpcs:// and https:// for TLS"
    if not isinstance(url, str):
        raise InvalidInputError(f"url is {type(url).__name__}; {expected}")
    if re.search(r"[\x00-\x20\x7f]", url):  # urlsplit would drop some of them silently
        raise InvalidInputError(f"{url!r} has spaces or control characters in it; {expected}")
    try:
        parts = urlsplit(url if "://" in url else f"grpc://{url}")
        port = parts.port
    except ValueError as error:
        raise InvalidInputError(f"{url!r} is not a server's address ({error}); {expected}") from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise InvalidInputError(f"{url!r} has the scheme {parts.scheme!r}; {expected}")
    if not parts.hostname or parts.query or parts.fragment or not _HOST.fullmatch(parts.hostname):
        raise InvalidInputError(f"{url!r} is not a server's address; {expected}")
    if parts.username is not None or parts.password is not None:
        raise InvalidInputError("a password in the address would end up in logs; pass api_key= or headers=")
    path = parts.path.rstrip("/")
    if path and parts.scheme.startswith("grpc"):
        raise InvalidInputError(f"{url!r} has a path, which gRPC has no use for; {expected}")
    if re.search(r"[^\x21-\x7e]", path):
        raise InvalidInputError(f"{url!r} has a path with characters that must be percent-encoded")
    return parts.scheme, parts.hostname, _DEFAULT_PORTS[parts.scheme] if port is None else port, path


def _checked_headers(api_key: str | None, headers: Mapping[str, str] | None) -> dict[str, str]:
    if headers is not None and not isinstance(headers, Mapping):
        raise InvalidInputError(f"headers is {type(headers).__name__}; expected a mapping of names to values")
    checked: dict[str, str] = {}
    for name, value in {**({} if headers is None else headers)}.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidInputError(f"{name!r} cannot be a header's name")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidInputError(f"the header {name!r} has a value that is not printable ASCII on one line")
        checked[name.lower()] = value
    if api_key is not None:
        if "authorization" in checked:
            raise InvalidInputError("api_key and headers['authorization'] say the same twice: give one of them")
        if not isinstance(api_key, str) or not api_key or not _HEADER_VALUE.fullmatch(api_key):
            raise InvalidInputError("api_key is empty or not printable ASCII on one line")
        checked["authorization"] = f"Bearer {api_key}"
    return checked


def _checked_file(name: str, file: str | Path | None) -> Path | None:
    if file is None:
        return None
    path = Path(file)
    if not path.is_file():
        raise InvalidInputError(f"{name}: there is no file {path}")
    return path

"""Options of a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from tritone_serving._exceptions import OptionsError
from tritone_serving.events import NO_EVENTS, EventStoreUrlError, check_store_url
from tritone_serving.security.access import check_access

Profile = Literal["cpu", "gpu"]
LOOPBACK: Final = "127.0.0.1"
RESPONSE_CACHE_BYTES: Final = 64 << 20  # a size to switch the response cache on with; it is off by default
LOG_BYTES: Final = 32 << 20
MIN_CACHE_BYTES: Final = 1 << 20  # Triton's local cache refuses to start with much less


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of a server; only `repository` is required.

    Attributes:
        repository: folder of models, as `tritone export` fills it.
        profile: `gpu` serves each model's `configs/gpu.pbtxt`, where there is one.
        models: names to load at start; None loads every model that has a version.
        require_all: whether the start fails if any model does not load. Otherwise the others are served, and
            `TritonServer.failed_models` holds the missing models with their reasons.
        host: address to listen on. Any other than loopback lets other machines call the models, and exposes the admin
            token to anyone who can read the traffic; use a TLS proxy.
        http_port: port of HTTP; 0 picks a free one, also for the other two ports.
        admin_token: secret for the admin APIs; None creates one and stores it for this user only.
        api_key: secret for inference, metadata, configurations and statistics; None leaves them open.
        service_key_file: file with the key that gives callers access to stored data of users. None uses the file in
            TRITONE_SERVICE_KEY_FILE, or else this user's own key, which is created if necessary.
        trust_callers: give every caller access to the stored data of every user; only for private networks.
        events: address of the store of listening events, see `tritone_serving.events.address`; `off` for none. None
            uses the address in TRITONE_EVENTS, or else a file in this user's state folder.
        tls_cert: PEM file with the server's certificate, which enables TLS for gRPC.
        tls_key: PEM file with its private key.
        tls_client_ca: PEM file with the authority that signs the certificates of callers (mutual TLS).
        http_host: address for HTTP and metrics, for which Triton has no TLS; None means loopback if gRPC uses TLS,
            else `host`.
        otlp_url: OTLP endpoint for traces over HTTP (`http://localhost:4318/v1/traces`); None for no traces.
        log_path: the server's log; None puts it under the user's state folder.
        log_max_bytes: size at which the log is renamed to `<name>.1` and a new file is started; 0 means no limit.
        startup_timeout_s: time limit for the start, including loading all models; up to five times as long on a machine
            whose CPUs are busy.
        stop_timeout_s: time limit for pending requests and models at a stop, after which they are killed.
        response_cache_bytes: size of Triton's response cache, which serves only models whose declaration opts in;
            0 switches it off.
        auto_complete: let backends add what a config.pbtxt leaves out, such as inputs and outputs. Triton then starts
            every model twice, which takes 1.5 s each; `tritone export` writes complete configs.
        log_verbose: Triton's log verbosity, 0 to 3.
        installation: root folder of the Triton to use; None uses `/opt/tritonserver` if it exists (NVIDIA's images),
            else the pip wheel's.

    Raises:
        OptionsError: an option is invalid.
    """

    repository: Path
    profile: Profile = "cpu"
    models: tuple[str, ...] | None = None
    require_all: bool = True
    host: str = LOOPBACK
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    admin_token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    service_key_file: Path | None = None
    trust_callers: bool = False
    events: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    http_host: str | None = None
    otlp_url: str | None = None
    log_path: Path | None = None
    log_max_bytes: int = LOG_BYTES
    startup_timeout_s: float = 60.0
    stop_timeout_s: float = 7.0
    response_cache_bytes: int = 0
    auto_complete: bool = False
    log_verbose: int = 0
    installation: Path | None = None

    def __post_init__(self) -> None:
        if self.profile not in get_args(Profile):
            raise OptionsError(f"profile is {self.profile!r}; expected one of: {', '.join(get_args(Profile))}")
        for name in ("host", "http_host"):  # "" the server would take for all addresses, its gRPC part for none
            if (value := getattr(self, name)) is not None and not value.strip():
                raise OptionsError(f"{name} is {value!r}; expected an address, 127.0.0.1 or 0.0.0.0 for all")
        if self.otlp_url is not None and not self.otlp_url.startswith(("http://", "https://")):
            raise OptionsError(f"otlp_url is {self.otlp_url!r}; expected as in http://localhost:4318/v1/traces")
        if self.events is not None and self.events != NO_EVENTS:
            try:
                check_store_url(self.events)
            except EventStoreUrlError as error:
                raise OptionsError(f"events: {error}") from error
        self._check_ports()
        check_access(self)
        if not self.stop_timeout_s > 0 or not self.startup_timeout_s > 0:
            raise OptionsError(
                f"startup_timeout_s is {self.startup_timeout_s} and stop_timeout_s {self.stop_timeout_s}; "
                f"expected seconds above 0"
            )
        if self.log_max_bytes < 0:
            raise OptionsError(f"log_max_bytes is {self.log_max_bytes}; expected 0 (no limit) or more")
        if self.response_cache_bytes and self.response_cache_bytes < MIN_CACHE_BYTES:
            raise OptionsError(
                f"response_cache_bytes is {self.response_cache_bytes}; expected 0 (no cache) "
                f"or at least {MIN_CACHE_BYTES}"
            )

    @property
    def plain_host(self) -> str:
        """Return the address of HTTP and metrics, which Triton serves without TLS."""
        if self.http_host is not None:
            return self.http_host
        return self.host if self.tls_cert is None else LOOPBACK

    def _check_ports(self) -> None:
        ports = {name: getattr(self, name) for name in ("http_port", "grpc_port", "metrics_port")}
        for name, port in ports.items():
            if not 0 <= port <= 65_535:
                raise OptionsError(f"{name} is {port}; expected 0 (pick a free one) to 65535")
        chosen = [port for port in ports.values() if port]
        if len(set(chosen)) < len(chosen):
            said = ", ".join(f"{name} {port}" for name, port in ports.items())
            raise OptionsError(f"each protocol needs a port of its own; got {said}")

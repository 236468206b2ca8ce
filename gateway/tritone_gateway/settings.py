"""Configuration of the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tritone.credentials import is_loopback_host

MIB: Final = 1 << 20
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}$")]
UserId = Annotated[str, Field(min_length=1, max_length=1_024)]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9.\-]+(:\d+)?$")]


class GatewaySettings(BaseModel):
    """Settings of the gateway; most are options of `tritone gateway`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: str = Field(
        "localhost:8001", description="Addresses of Triton in the form of the SDK, separated by commas."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65_535, description="Port to listen on; 0 selects a free port.")
    workers: int = Field(1, ge=1, le=256, description="Number of worker processes.")
    keys_file: Path | None = Field(None, description="File with the API keys; None for the default of `tritone keys`.")
    allow_anonymous: bool = Field(
        False, description="Serve callers without a key on non-loopback addresses while no keys exist."
    )
    service_key_file: Path | None = Field(
        None,
        description="File with the service key for stored users, read again after a change; None for the default key "
        "of the SDK.",
    )
    api_key: str | None = Field(None, repr=False, description="API key of Triton's server; None if it has none.")
    api_key_file: Path | None = Field(
        None, description="File with the API key of Triton's server, instead of `api_key`; read again after a change."
    )
    required_models: tuple[ModelName, ...] = Field(
        (), description="Models that must be ready for /readyz to respond 200; if empty, one ready model is enough."
    )
    timeout_s: float = Field(30.0, gt=0, le=3_600, description="Time limit of one call to a model, in seconds.")
    retries: int = Field(2, ge=0, le=10, description="Number of retries of a failed call to a model.")
    body_timeout_s: float = Field(
        30.0, gt=0, le=3_600, description="Time limit for receiving a request's body, in seconds."
    )
    header_timeout_s: float = Field(
        10.0, gt=0, le=600, description="Time limit for receiving a request's headers, in seconds."
    )
    send_timeout_s: float = Field(
        60.0,
        gt=0,
        le=3_600,
        description="Seconds after which a connection whose caller reads nothing of a response is closed.",
    )
    keep_alive_s: int = Field(30, ge=1, le=3_600, description="Seconds after which an idle connection is closed.")
    drain_s: float = Field(
        1.0, ge=0, le=600, description="Seconds between SIGTERM, after which /readyz responds 503, and the shutdown."
    )
    max_body_mb: int = Field(64, ge=1, le=4_096, description="Maximum size of a request body in MiB.")
    max_bodies_mb: int = Field(
        512, ge=1, le=65_536, description="Maximum size of all request bodies of one worker together, in MiB."
    )
    max_in_flight: int = Field(
        256, ge=1, le=100_000, description="Maximum number of concurrent requests of one worker."
    )
    rate_store: str | None = Field(
        None,
        repr=False,  # it may hold a password
        pattern=r"^(redis|valkey)(s)?://",
        description="URL of the Valkey or Redis server in which gateways count requests; None to count in memory.",
    )
    url_hosts: tuple[HostName, ...] = Field(
        (), description="Hosts from which files that callers name by URL may be downloaded."
    )
    recordings: Path | None = Field(
        None, description="Folder with recordings or MIDI files of the tracks, named by track id, such as 42.ogg."
    )
    example_users: tuple[UserId, ...] = Field(
        (),
        max_length=100,
        repr=False,
        description="Ids of stored users that are shown to callers as examples; none by default.",
    )
    cors_origins: tuple[Origin, ...] = Field((), description="Origins of web pages that may call the gateway.")
    tls_cert: Path | None = Field(None, description="PEM file with the gateway's certificate.")
    tls_key: Path | None = Field(None, description="PEM file with the private key of the certificate.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file with the certificate authority of callers; enables mutual TLS."
    )
    otlp_url: str | None = Field(None, description="URL of an OpenTelemetry collector for traces.")
    log_format: Literal["text", "json"] = Field("text", description="Format of the log.")
    genre_model: str = Field("genre_cnn", description="Default model of classify and embed.")

    @field_validator("tls_cert", "tls_key", "tls_client_ca")
    @classmethod
    def _is_file(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError(f"expected a PEM file, got {path}, which does not exist")
        return path

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key: expected both or neither")
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("api_key and api_key_file: expected only one of them")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca: expected tls_cert and tls_key too, which enable TLS")
        if self.max_bodies_mb < self.max_body_mb:
            raise ValueError(f"max_bodies_mb: expected at least max_body_mb ({self.max_body_mb})")
        return self

    @property
    def is_loopback(self) -> bool:
        """Return whether the gateway listens on a loopback address."""
        return is_loopback_host(self.host)

    def to_environment(self) -> str:
        """Return the settings as text for the environment of a worker process."""
        return self.model_dump_json()

    @classmethod
    def from_environment(cls, text: str) -> Self:
        """Return the settings that `to_environment` wrote."""
        return cls.model_validate_json(text)

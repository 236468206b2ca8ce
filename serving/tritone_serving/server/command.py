"""The server's command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tritone_serving.security.access import access_flags
from tritone_serving.security.service_key import service_key_flags
from tritone_serving.server.installation import Installation
from tritone_serving.server.options import ServerOptions

# Initial size and growth of the shared memory of each model instance. A recording of 30 windows takes 8 MB. Larger
# steps are better, because both processes map the region again at each growth; unused pages cost no memory.
SHM_BYTES: Final = 8 << 20
TRACE_DELAY_MS: Final = 1000  # how long spans wait to be sent together
# Percentiles of the times of the last minute, with the allowed error in rank. Triton 2.51 has no histograms.
LATENCY_QUANTILES: Final = "0.5:0.05,0.9:0.01,0.95:0.005,0.99:0.001"
_PLAIN: Final = re.compile(r"[\w./+:@%=,-]+")


def server_command(
    options: ServerOptions,
    *,
    installation: Installation,
    folder: Path,
    ports: Mapping[str, int],
    token: str,
    models: Sequence[str],
    n_load_threads: int = 4,
) -> list[str]:
    """Build the arguments that start the server.

    Args:
        options: options of the server.
        installation: the Triton to run.
        folder: the server's private folder, already filled; its name becomes the prefix of its shared memory.
        ports: by option name, none of them 0.
        token: the admin token.
        models: models to load at start.
        n_load_threads: number of models to load at the same time.
    """
    command = [
        str(installation.binary),
        f"--model-repository={_speakable(options.repository.resolve(), folder)}",
        f"--backend-directory={folder / 'backends'}",
        f"--cache-directory={installation.caches}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        # Keep running if a model fails to load: the repository index then has the reason.
        "--exit-on-error=false",
        # Without `require_all`, a model that failed to load must not make the server unready for the others.
        f"--strict-readiness={str(options.require_all).lower()}",
        f"--model-load-thread-count={n_load_threads}",
        f"--exit-timeout-secs={max(1, round(options.stop_timeout_s) - 2)}",
        f"--http-address={options.plain_host}",
        f"--http-port={ports['http_port']}",
        f"--grpc-address={options.host}",
        f"--grpc-port={ports['grpc_port']}",
        f"--metrics-address={options.plain_host}",
        f"--metrics-port={ports['metrics_port']}",
        "--metrics-config=summary_latencies=true",
        f"--metrics-config=summary_quantiles={LATENCY_QUANTILES}",
        *access_flags(options, token),
        *service_key_flags(),
        f"--backend-config=python,shm-region-prefix-name={folder.name}-",
        f"--backend-config=python,shm-default-byte-size={SHM_BYTES}",
        f"--backend-config=python,shm-growth-byte-size={SHM_BYTES}",
        f"--backend-config=python,stub-timeout-seconds={max(1, round(5 * options.startup_timeout_s))}",
        f"--log-verbose={options.log_verbose}",
        "--log-format=ISO8601",
    ]
    if not options.auto_complete:
        command.append("--disable-auto-complete-config")
    if options.response_cache_bytes:
        command.append(f"--cache-config=local,size={options.response_cache_bytes}")
    if options.otlp_url:
        command += [
            "--trace-config=mode=opentelemetry",
            f"--trace-config=opentelemetry,url={options.otlp_url}",
            "--trace-config=opentelemetry,resource=service.name=tritone",
            f"--trace-config=opentelemetry,bsp_schedule_delay={TRACE_DELAY_MS}",
            "--trace-config=rate=1",
            "--trace-config=level=TIMESTAMPS",
        ]
    if options.profile == "gpu":
        command.append("--model-config-name=gpu")
    else:
        command.append("--allow-gpu-metrics=false")  # looking for GPU libraries would delay the start by half a second
    return command


def _speakable(repository: Path, folder: Path) -> Path:
    """Return a path without characters special to a shell, through a link if necessary: Triton does not quote it."""
    if _PLAIN.fullmatch(str(repository)):
        return repository
    link = folder / "repository"
    link.symlink_to(repository)
    return link

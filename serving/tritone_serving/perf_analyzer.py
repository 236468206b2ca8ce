"""Run NVIDIA's perf_analyzer at one load, with the shared libraries that it needs.

```python
with tempfile.TemporaryDirectory() as folder:
    tool = PerfAnalyzer.find(Path(folder))
    reading = tool.measure("genre_cnn", "localhost:8001", protocol="grpc", data=data, load=Load(concurrency=8))
    print(reading.per_s, reading.p99_ms)
```
"""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tritone_serving._exceptions import (
    PerfAnalyzerError,
    PerfAnalyzerMissingError,
    ServerNotInstalledError,
    UnstableError,
)
from tritone_serving.server.installation import find_installation

Protocol = Literal["grpc", "http"]
N_TRIALS: Final = 8  # windows; three in a row have to agree
# What the binary is linked with and its wheel does not bring; the server's wheel has both, under hashed names.
_LIBRARIES: Final = ("libb64.so.0d", "libcudart.so.12")
_GET_IT: Final = "pip install --force-reinstall --no-deps 'tritonclient==2.51.0' brings it (Linux on x86-64)"
_GET_LIBRARIES: Final = (
    "pip install 'tritone[serve]' brings its libraries, as do libb64-0d and nvidia-cuda-runtime-cu12"
)


@dataclass(frozen=True, kw_only=True)
class Load:
    """A load: a number of concurrent clients (closed loop), or a rate of arrivals (open loop).

    Attributes:
        concurrency: number of clients that each wait for their response; None if `rate` is given.
        rate: requests per second with Poisson arrivals; None if `concurrency` is given.
        batch: inferences in each request, such as the windows of a recording.
    """

    concurrency: int | None = None
    rate: float | None = None
    batch: int = 1

    def __str__(self) -> str:
        said = f"{self.concurrency} at once" if self.rate is None else f"{self.rate:.4g}/s Poisson"
        return said if self.batch == 1 else f"{said}, {self.batch} each"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Throughput and latency under one load, from measurement windows that agree.

    Attributes:
        per_s: inferences per second.
        delayed: share of requests that the generator sent late, 0 to 1; a large share invalidates an open loop.
    """

    per_s: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    delayed: float = 0.0


@dataclass(frozen=True)
class PerfAnalyzer:
    """An installed perf_analyzer that has been found to start.

    Attributes:
        binary: the program.
        environment: environment variables for it.
        version: version that it reports.
    """

    binary: Path
    environment: Mapping[str, str]
    version: str

    @classmethod
    def find(cls, folder: Path) -> PerfAnalyzer:
        """Find perf_analyzer next to this Python or on the PATH, and check that it starts.

        Args:
            folder: for links to the libraries that it needs; must exist as long as the object is used.

        Raises:
            PerfAnalyzerMissingError: it is not installed or does not start; the message has the install command.
        """
        sibling = Path(sys.executable).with_name("perf_analyzer")
        found = str(sibling) if sibling.is_file() else shutil.which("perf_analyzer")
        if found is None:
            raise PerfAnalyzerMissingError(f"perf_analyzer is not installed; {_GET_IT}")
        environment = with_libraries(folder)
        try:
            done = subprocess.run(
                [found, "--version"], env=environment, capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PerfAnalyzerMissingError(f"{found} does not start ({error}); {_GET_IT}") from error
        said = (done.stdout + done.stderr).strip()
        version = re.search(r"Version (\S+)", said)
        if version is None:
            remedy = _GET_LIBRARIES if "shared librar" in said else _GET_IT
            raise PerfAnalyzerMissingError(
                f"{found} does not start ({said.splitlines()[-1:] or ['no word']}); {remedy}"
            )
        return cls(Path(found), environment, version[1])

    def measure(
        self,
        model: str,
        url: str,
        *,
        protocol: Protocol,
        data: Path,
        load: Load,
        window_s: float = 5.0,
        stability: float = 0.1,
        percentile: int | None = None,
        streaming: bool = False,
        n_trials: int = N_TRIALS,
        headers: Mapping[str, str] | None = None,
    ) -> Reading:
        """Measure until three windows in a row agree.

        Args:
            url: without a scheme.
            data: inputs, as `--input-data` reads them.
            stability: by how much latency and throughput of the three windows may differ.
            percentile: the latency that has to be stable; None looks at the mean.
            headers: sent with each request; every user of the machine can read them on the program's command line.
            streaming: the model is decoupled; gRPC only, and the latency is that of the first answer.

        Raises:
            UnstableError: the windows do not agree.
            PerfAnalyzerError: perf_analyzer failed; the message ends with its output.
        """
        # A separate folder, so that no existing file is replaced.
        with tempfile.TemporaryDirectory(prefix="tritone-perf-") as folder:
            table = Path(folder) / "table.csv"
            command = [str(self.binary), "-m", model, "-u", url, "-i", protocol, "--input-data", str(data)]
            command += ["-f", str(table), "-s", f"{100 * stability:g}", "-r", str(n_trials)]
            command += ["--measurement-interval", str(round(1e3 * window_s))]
            command += [part for name, value in (headers or {}).items() for part in ("-H", f"{name}: {value}")]
            if load.rate is None:
                command += ["--concurrency-range", str(load.concurrency)]
            else:
                command += ["--request-rate-range", f"{load.rate:g}", "--request-distribution", "poisson"]
                command += ["--max-threads", "16"]
            if load.batch > 1:
                command += ["-b", str(load.batch)]
            if percentile is not None:
                command += ["--percentile", str(percentile)]
            if streaming:
                command += ["--streaming", "--async"]
            limit_s = 60 + 2 * n_trials * window_s
            try:
                done = subprocess.run(
                    command, env=self.environment, capture_output=True, text=True, timeout=limit_s, check=False
                )
            except subprocess.TimeoutExpired as error:
                raise PerfAnalyzerError(f"{model}, {load}: perf_analyzer did not end within {limit_s:.0f} s") from error
            said = done.stdout + done.stderr
            if "Failed to obtain stable measurement" in said:
                raise UnstableError(
                    f"{model}, {load}: no {min(3, n_trials)} of {n_trials} windows of {window_s:g} s in a row agreed "
                    f"within {100 * stability:g} %; quieten the machine, or use longer windows"
                )
            if not table.is_file():
                last = " ".join(done.stderr.split())[-400:] or f"exit status {done.returncode}"
                raise PerfAnalyzerError(f"{model}, {load}: perf_analyzer measured nothing: {last}")
            return parse_table(table.read_text(), delayed=parse_delayed(said))


def with_libraries(folder: Path) -> dict[str, str]:
    """Return the environment for perf_analyzer, with the two libraries that its wheel lacks from the server's wheel."""
    try:
        places = find_installation().libraries
    except ServerNotInstalledError:
        places = ()  # the system may have them
    links = folder / "libraries"
    links.mkdir(exist_ok=True)
    for place in places:
        for path in place.glob("*.so*"):
            for wanted in _LIBRARIES:
                stem = wanted.partition(".")[0]
                if re.match(rf"{stem}[-.]", path.name) and not (links / wanted).exists():
                    (links / wanted).symlink_to(path)
    paths = [str(links), *map(str, places), os.environ.get("LD_LIBRARY_PATH", "")]
    # Connections are direct, as the SDK's are.
    direct = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**direct, "LD_LIBRARY_PATH": os.pathsep.join(path for path in paths if path)}


def parse_table(text: str, *, delayed: float = 0.0) -> Reading:
    """Read the CSV that perf_analyzer writes for one load.

    Raises:
        PerfAnalyzerError: the table has not exactly one row, lacks a column, or no request succeeded.
    """
    rows = list(csv.DictReader(text.splitlines()))
    if len(rows) != 1:
        raise PerfAnalyzerError(f"perf_analyzer's table has {len(rows)} rows; expected 1")
    try:
        per_s = float(rows[0].get("Inferences/Second") or "")
        percentiles = [float(rows[0].get(f"p{number} latency") or "") / 1e3 for number in (50, 90, 95, 99)]
    except ValueError as error:
        raise PerfAnalyzerError(f"perf_analyzer's table lacks a figure: {', '.join(rows[0])}") from error
    if per_s <= 0:
        raise PerfAnalyzerError("perf_analyzer got no answer at all in its windows; use longer ones")
    p50, p90, p95, p99 = percentiles
    return Reading(per_s=per_s, p50_ms=p50, p90_ms=p90, p95_ms=p95, p99_ms=p99, delayed=delayed)


def parse_delayed(said: str) -> float:
    """The share of requests that were sent late, from what perf_analyzer prints."""
    # «... not able to keep up with the desired request rate. 12.50% of the requests were delayed.»
    shares = re.findall(r"([\d.]+)\s*% of the requests were delayed", said)
    return float(shares[-1]) / 100 if shares else 0.0


def write_data(path: Path, requests: Sequence[Mapping[str, Any]]) -> None:
    """Write requests as `--input-data` reads them.

    Args:
        requests: input by name: a NumPy array, of objects for text, with the shape that goes over the wire but for
            the batch axis.
    """
    path.write_text(json.dumps({"data": [{name: _told(array) for name, array in each.items()} for each in requests]}))


def check_data(path: Path) -> None:
    """See whether a file can be `--input-data`, before a server is started for it.

    Raises:
        PerfAnalyzerError: it cannot; of what it may hold only the outline is looked at.
    """
    try:
        said = json.loads(path.read_bytes())
    except OSError as error:
        raise PerfAnalyzerError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise PerfAnalyzerError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(said, dict) or not isinstance(said.get("data"), list) or not said["data"]:
        raise PerfAnalyzerError(f"{path}: expected an object with data, a list of requests, as perf_analyzer reads it")


def _told(array: Any) -> dict[str, Any]:
    shape = list(array.shape)
    if array.dtype == object:
        values = [each if isinstance(each, bytes) else str(each).encode() for each in array.ravel().tolist()]
        try:
            return {"content": [each.decode() for each in values], "shape": shape}
        except UnicodeDecodeError:  # bytes that are no text, such as a recording: as Triton serialises them
            serialised = b"".join(len(each).to_bytes(4, "little") + each for each in values)
            return {"content": {"b64": base64.b64encode(serialised).decode()}, "shape": shape}
    return {"content": {"b64": base64.b64encode(array.tobytes()).decode()}, "shape": shape}

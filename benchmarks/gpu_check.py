"""Check the GPU profile and measure it, in steps with time limits; one JSON, which is written after each step.

    benchmarks/gpu_check.sh --collect-wheels DIR
    benchmarks/gpu_check.sh --wheels DIR --repository DIR [--out FILE]
    benchmarks/gpu_check.sh --dry-run --repository DIR

The first form downloads what the second installs, for the same Python and x86-64 Linux (2.1 GB). The second creates an
environment, serves the repository with `--profile gpu`, runs the tests marked `gpu`, and measures the models in process
and through the server. The third does without the GPU, with the CPU provider and the profile `cpu`, and without
--wheels it uses the present environment. A step that fails or takes too long is recorded, and the others still run. The
exit status is 1 if a step failed.

Needs the standard library only, since it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.arguments import amount

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cli", "client", "export", "gateway", "serving", "training")
LIMITS_S = {"machine": 15.0, "install": 180.0, "tests": 75.0, "in_process": 90.0, "served": 110.0}  # 470 s in all
SMI_FIELDS = ("utilization.gpu", "memory.used")
SMI_EVERY_MS = 250


class StepError(Exception):
    """Raised when a step fails."""


@dataclass
class Check:
    """One run.

    Attributes:
        repository: folder of exported models.
        out: file with the results.
        wheels: folder of wheels; None to use the present environment.
        environment: folder of the environment to create.
        dry_run: whether to do without the GPU.
        seconds: length of each measurement.
        limits_s: time limit of each step.
        results: what is written to the file.
    """

    repository: Path
    out: Path
    wheels: Path | None
    environment: Path
    dry_run: bool
    seconds: float
    limits_s: Mapping[str, float]
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """Return the interpreter that has the packages."""
        return Path(sys.executable) if self.wheels is None else self.environment / "bin" / "python"

    def run(self) -> bool:
        """Run all steps and return whether all succeeded."""
        steps: dict[str, Callable[[float], Any]] = {
            "machine": self.describe_machine,
            "install": self.install,
            "tests": self.run_tests,
            "in_process": lambda limit_s: self.measure("in-process", limit_s),
            "served": lambda limit_s: self.measure("served", limit_s),
        }
        if self.wheels is None:
            del steps["install"]
        began_s = time.monotonic()
        self.results = {
            "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "dry_run": self.dry_run,
            "repository": str(self.repository),
            "steps": {},
        }
        for name, step in steps.items():
            step_began_s, error = time.monotonic(), None
            print(f"{name}: at most {self.limits_s[name]:g} s", file=sys.stderr, flush=True)
            try:
                self.results[name] = step(self.limits_s[name])
            except (StepError, OSError) as failure:
                error = str(failure)
                print(f"{name}: {error}", file=sys.stderr, flush=True)
            self.results["steps"][name] = {
                "ok": error is None,
                "seconds": round(time.monotonic() - step_began_s, 1),
                **({"error": error} if error else {}),
            }
            self.results["seconds"] = round(time.monotonic() - began_s, 1)
            write_json(self.out, self.results)
        return all(each["ok"] for each in self.results["steps"].values())

    def describe_machine(self, limit_s: float) -> dict[str, Any]:
        """Return what is known of the machine and its GPU."""
        found: dict[str, Any] = {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "gpu": None,
        }
        if self.dry_run:
            return found
        fields = ("name", "driver_version", "memory.total", "clocks.max.sm")
        query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        lines = run(query, limit_s, {}).strip().splitlines()
        values = [value.strip() for value in lines[0].split(",")] if lines else []
        if len(values) != len(fields):
            raise StepError(f"nvidia-smi: expected {', '.join(fields)} of a GPU, got {lines}; check the driver")
        return found | {"gpu": dict(zip(fields, values, strict=True))}

    def install(self, limit_s: float) -> dict[str, Any]:
        """Create the environment from the wheels."""
        if self.wheels is None or not list(self.wheels.glob("tritone-*.whl")):
            raise StepError(f"{self.wheels}: expected wheels, got none of tritone; run --collect-wheels first")
        deadline_s = time.monotonic() + limit_s
        shutil.rmtree(self.environment, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(self.environment)], limit_s, {})
        packages = ["tritone[serve-gpu]", "--requirement", str(ROOT / "benchmarks/gpu_requirements.txt")]
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        source = ["--no-index", "--find-links", str(self.wheels)]
        run([*pip, *source, *packages], deadline_s - time.monotonic(), {})
        return {"wheels": len(list(self.wheels.glob("*.whl")))}

    def run_tests(self, limit_s: float) -> dict[str, Any]:
        """Run the tests marked `gpu`."""
        command = [str(self.python), "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
        text = run([*command, str(ROOT / "tests/integration/test_gpu.py")], limit_s, self.variables())
        return {"summary": text.strip().splitlines()[-1]}

    def measure(self, where: str, limit_s: float) -> dict[str, Any]:
        """Measure the models; what was measured before a failure is kept in the results."""
        command = [str(self.python), "-m", "benchmarks.gpu_speed", where, "--repository", str(self.repository)]
        command += ["--seconds", str(self.seconds), *(["--dry-run"] if self.dry_run else [])]
        rows: list[dict[str, Any]] = []

        def keep(line: str) -> None:
            if line.startswith("{"):  # libraries may print other lines
                rows.append(json.loads(line))

        self.results[where.replace("-", "_")] = {"rows": rows}
        sampler = GpuSampler() if not self.dry_run else None
        try:
            run(command, limit_s, self.variables(), on_line=keep)
        finally:
            gpu = sampler.stop() if sampler is not None else None
            self.results[where.replace("-", "_")] |= {"gpu": gpu}
        return dict(self.results[where.replace("-", "_")])

    def variables(self) -> dict[str, str]:
        """Return the environment variables of the steps."""
        found = {"TRITONE_GPU_REPOSITORY": str(self.repository)}
        if self.dry_run:
            found["TRITONE_GPU_DRY_RUN"] = "1"
        if self.wheels is None:
            return found
        # Tests and benchmarks come from the checkout, the packages from the environment.
        found["PYTHONPATH"] = str(ROOT)
        # The wheels of CUDA and cuDNN are not on the loader's path.
        libraries = [str(path) for path in self.environment.glob("lib/python*/site-packages/nvidia/*/lib")]
        libraries += filter(None, [os.environ.get("LD_LIBRARY_PATH")])
        return {**found, "LD_LIBRARY_PATH": os.pathsep.join(libraries)}


class GpuSampler:
    """Records utilisation and memory of the first GPU with nvidia-smi until it is stopped."""

    def __init__(self) -> None:
        query = ["nvidia-smi", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader,nounits"]
        self._samples: list[list[float]] = []
        self._process = subprocess.Popen(
            [*query, "--id=0", f"--loop-ms={SMI_EVERY_MS}"], stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def stop(self) -> dict[str, float]:
        """Return the number of samples, mean and maximum utilisation in per cent and maximum memory in MiB."""
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        return summary(self._samples)

    def _read(self) -> None:
        for line in self._process.stdout or ():
            with contextlib.suppress(ValueError):
                self._samples.append([float(value) for value in line.split(",")])


def summary(samples: list[list[float]]) -> dict[str, float]:
    """Return the number of samples, mean and maximum utilisation in per cent and maximum memory in MiB."""
    if not samples:
        return {"samples": 0}
    utilisation, memory = zip(*samples, strict=True)
    return {
        "samples": len(samples),
        "utilisation_mean_percent": round(sum(utilisation) / len(utilisation), 1),
        "utilisation_max_percent": max(utilisation),
        "memory_max_mib": max(memory),
    }


def run(
    command: list[str], limit_s: float, variables: Mapping[str, str], *, on_line: Callable[[str], Any] | None = None
) -> str:
    """Run a command, with its descendants killed at the end, and return what it printed.

    Args:
        command: the command.
        limit_s: time limit.
        variables: environment variables, besides those of this process.
        on_line: called with each line that it prints, as soon as it does.

    Raises:
        StepError: it fails or takes too long.
    """
    lines: list[str] = []
    timed_out = threading.Event()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip

        def stop() -> None:
            timed_out.set()
            kill_group(process.pid)

        timer = threading.Timer(max(limit_s, 0), stop)
        timer.start()
        try:
            for line in process.stdout or ():
                lines.append(line)
                if on_line is not None:
                    on_line(line)
            status = process.wait()
        finally:
            timer.cancel()
            kill_group(process.pid)
        errors.seek(0)
        last = [*"".join(lines).strip().splitlines()[-5:], *errors.read().strip().splitlines()[-5:]]
    if timed_out.is_set():
        raise StepError(f"{name_of(command)} took longer than {limit_s:.0f} s")
    if status:
        raise StepError(f"{name_of(command)} ended with {status}: " + " | ".join(last))
    return "".join(lines)


def name_of(command: list[str]) -> str:
    """Return the program and the module that a command runs."""
    module = command[command.index("-m") + 1] if "-m" in command else ""
    return f"{Path(command[0]).name} {module}".strip()


def kill_group(leader: int) -> None:
    """Kill what is left of a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file atomically."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(content, indent=1) + "\n")
    draft.replace(path)


def collect_wheels(folder: Path) -> None:
    """Download everything that `Check.install` needs, and build the project.

    Raises:
        StepError: something cannot be downloaded or built.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], 300, {})
    (project,) = folder.glob("tritone-*.whl")
    what = [f"{project}[serve-gpu]", "--requirement", str(ROOT / "benchmarks/gpu_requirements.txt")]
    constraints = folder / "constraints.txt"
    # The project's versions, but for those of packages that gpu_requirements.txt states.
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints.write_text("\n".join(line for line in lines if not line.startswith("onnxruntime")) + "\n")
    download = [*pip, "download", "--quiet", "--only-binary", ":all:", "--dest", str(folder)]
    run([*download, "--constraint", str(constraints), *what], 3600, {})


def main() -> None:
    """Collect wheels, or run the check."""
    parser = argparse.ArgumentParser(
        prog="gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collect-wheels", type=Path, metavar="DIR", help="download the wheels to this folder")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="folder of wheels to install")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--environment", type=Path, default=Path(".venv-gpu"), help="folder to install to (.venv-gpu)")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="file with the results")
    parser.add_argument("--seconds", type=amount, default=2.0, help="length of each measurement in seconds (2)")
    parser.add_argument("--dry-run", action="store_true", help="do without the GPU")
    arguments = parser.parse_args()
    if arguments.collect_wheels is not None:
        try:
            collect_wheels(arguments.collect_wheels.resolve())
        except StepError as error:
            sys.exit(f"gpu_check: {error}")
        return
    if not list(arguments.repository.glob("*/[0-9]*/model.onnx")):
        parser.error(f"{arguments.repository} holds no version of a model; `tritone export` or `make demo` make some")
    if arguments.wheels is None and not arguments.dry_run:
        parser.error("expected --wheels DIR, or --dry-run for a run without a GPU")
    if arguments.wheels is not None and not arguments.wheels.is_dir():
        parser.error(f"argument --wheels: expected a folder, got {str(arguments.wheels)!r}")
    check = Check(
        repository=arguments.repository.resolve(),
        out=arguments.out.resolve(),
        wheels=arguments.wheels and arguments.wheels.resolve(),
        environment=arguments.environment.resolve(),
        dry_run=arguments.dry_run,
        seconds=arguments.seconds,
        limits_s=LIMITS_S,
    )
    succeeded = check.run()
    print(json.dumps(check.results, indent=1))
    sys.exit(0 if succeeded else 1)


if __name__ == "__main__":
    main()

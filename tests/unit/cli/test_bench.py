"""`tritone bench`: loads, example requests, statistics of the server and the report."""

from __future__ import annotations

import contextlib
import csv
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritone_cli.bench import report
from tritone_cli.bench.in_process import InProcessThroughput, SessionLayout, session_layouts
from tritone_cli.bench.inputs import UnknownInputsError, example_requests
from tritone_cli.bench.measurement import (
    ArrivalRate,
    BenchResult,
    LoadOptionError,
    LoadResult,
    batches,
    concurrencies,
    rates,
)
from tritone_cli.bench.server_statistics import ServerCounts, between, statistics
from tritone_cli.marked_tables import TableMarksError
from tritone_serving import AdminApiError, PerfAnalyzerMissingError
from tritone_serving.perf_analyzer import Load, PerfAnalyzer, Reading


@pytest.mark.parametrize(
    ("text", "levels"),
    [("8", (8,)), ("4,1", (1, 4)), ("1:32", (1, 2, 4, 8, 16, 32)), ("1:6", (1, 2, 4, 6)), ("2:10:4", (2, 6, 10))],
)
def test_concurrencies(text: str, levels: tuple[int, ...]) -> None:
    assert concurrencies(text) == levels


@pytest.mark.parametrize("text", ["", "0", "a", "4:1", "1:4:0", "1:4:1:1", "1,,2", "1:99999", "-1"])
def test_invalid_concurrencies(text: str) -> None:
    with pytest.raises(LoadOptionError):
        concurrencies(text)


def test_rates() -> None:
    assert rates("none") == rates("") == ()
    assert rates("50%, 20.5") == (ArrivalRate(0.5, is_share=True), ArrivalRate(20.5, is_share=False))
    assert rates("50%")[0].load(100.0) == Load(rate=50.0)
    assert rates("50%")[0].load(None) is None
    assert rates("20")[0].load(None) == Load(rate=20.0)
    for text in ("0", "120%", "x", "-3", "nan", "inf"):
        with pytest.raises(LoadOptionError):
            rates(text)


def test_batches() -> None:
    assert batches("8, 1") == (1, 8)
    assert ArrivalRate(0.5, is_share=True).load(80.0, batch=8) == Load(rate=5.0, batch=8)
    assert (str(Load(concurrency=2, batch=8)), str(Load(concurrency=2))) == ("2 at once, 8 each", "2 at once")
    for text in ("", "0", "x", "1,,2", "-1"):
        with pytest.raises(LoadOptionError):
            batches(text)


def model_statistics(n: int, ns: int, batches: dict[int, int], *, hits: int = 0, failed: int = 0) -> dict[str, Any]:
    parts = {name: {"count": n, "ns": ns} for name in ("queue", "compute_input", "compute_infer", "compute_output")}
    counts = {"success": n + hits, "fail": failed, "cache_hit": hits, "cache_miss": n}
    return {
        "model_stats": [
            {
                "inference_stats": {**parts, **{name: {"count": count, "ns": 1} for name, count in counts.items()}},
                "batch_stats": [
                    {"batch_size": size, "compute_infer": {"count": count}} for size, count in batches.items()
                ],
            }
        ]
    }


def test_statistics_are_differences() -> None:
    counts = between(
        model_statistics(10, 10_000_000, {1: 10}), model_statistics(30, 50_000_000, {1: 14, 8: 2}, hits=5, failed=1)
    )
    assert (counts.n, counts.n_failed, counts.n_cache_hits, counts.n_cache_misses) == (25, 1, 5, 20)
    assert counts.part_ms["queue"] == pytest.approx(2.0)
    assert counts.batches == {1: 4, 8: 2}
    assert counts.mean_batch == pytest.approx(20 / 6)


@contextlib.contextmanager
def answering(body: bytes) -> Iterator[str]:
    """Yield the address of a server that sends one response and is not Triton."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(body)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            thread.join(10)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"null", b"{", b"[" * 100_000])
def test_a_server_other_than_triton_raises(run_tritone: Callable[..., Any], body: bytes) -> None:
    with answering(b"HTTP/1.0 200 OK\r\n\r\n" + body) as url, pytest.raises(AdminApiError, match=url):
        statistics(f"http://{url}", "m")
    with answering(b"SSH-2.0-x\r\n") as url:
        done = run_tritone("bench", "m", "--server", f"http://{url}")
    assert done.status == 1
    assert f"no Triton server at http://{url}: the response is not HTTP" in done.stderr
    assert "SSH" not in done.stderr
    assert run_tritone("bench", "m", "--server", "localhost:1/a b").status == 2


def config_of(name: str, inputs: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"name": name, "max_batch_size": 64, "backend": "onnxruntime", "input": inputs, **more}


def test_example_requests_are_drawn_by_the_kind() -> None:
    config = config_of("genre_cnn", [{"name": "audio", "dims": ["66150"]}])
    examples = example_requests(config, None, n=4)
    assert len(examples.requests) == 4
    sounds = [request["audio"] for request in examples.requests]
    assert all(sound.shape == (66_150,) and sound.std() > 0.01 for sound in sounds)
    assert not np.array_equal(sounds[0], sounds[1])
    assert examples.batch is not None
    assert examples.batch["audio"].shape == (4, 66_150)


def test_scalars_have_an_axis_on_the_wire() -> None:
    names = ("latent", "attributes", "noise", "temperature", "top_k", "top_p")
    dims: dict[str, list[int]] = {"latent": [193], "attributes": [3], "noise": [32, 4]}
    inputs = [{"name": name, "dims": dims.get(name, [1])} for name in names]
    examples = example_requests(config_of("music_vae_decoder", inputs), None, n=2)
    assert examples.requests[0]["temperature"].shape == (1,)
    assert examples.batch is not None
    assert examples.batch["temperature"].shape == (2,)


def test_a_streaming_model_gets_its_declared_inputs() -> None:
    names = (
        "given",
        "given_mode",
        "meter",
        "style",
        "key",
        "density",
        "n_voices",
        "end",
        "repeats",
        "noise",
        "temperature",
        "top_k",
        "top_p",
    )
    examples = example_requests(config_of("composer", [{"name": name, "dims": [1]} for name in names]), None, n=3)
    assert set(examples.requests[0]) == set(names)


def test_a_model_with_unknown_inputs_raises() -> None:
    with pytest.raises(UnknownInputsError):
        example_requests(config_of("other", [{"name": "pixels", "dims": [3]}]), None)


def row(per_s: float | None, problem: str | None = None, *, n: int = 4) -> LoadResult:
    reading = per_s and Reading(per_s=per_s, p50_ms=1, p90_ms=2, p95_ms=3, p99_ms=4)
    parts = dict.fromkeys(("queue", "compute_input", "compute_infer", "compute_output"), 0.5)
    return LoadResult(
        model="m",
        protocol="grpc",
        load=Load(concurrency=n),
        reading=reading or None,
        problem=problem,
        counts=ServerCounts(n=10, n_failed=0, part_ms=parts, batches={1: 2, 4: 2}, n_cache_hits=0, n_cache_misses=0),
        server_cores=0.5,
        stub_cores=0.6,
        memory_mb=100.0,
        generator_cores=0.2,
    )


def result_of(*rows: LoadResult, after_per_s: float = 100.0) -> BenchResult:
    return BenchResult(
        model="m",
        rows=rows,
        ceiling=InProcessThroughput(SessionLayout(1, 1, 1), 100.0, after_per_s=after_per_s),
        no_ceiling=None,
    )


def test_the_report_has_tables_and_plots_and_marks_unstable_results(tmp_path: Path) -> None:
    result = result_of(row(90.0), row(None, "m, 8 at once: no 3 of 8 windows agreed", n=8))
    written = report.write([result], tmp_path / "new" / "folder", facts={"Command": "x"})
    assert [path.name for path in written] == ["bench.md", "bench.csv", "m.png"]
    text = written[0].read_text()
    assert "| grpc | 4 at once | 90 | 0.90 | 1 | 2 | 3 | 4 |" in text
    assert "| grpc | 8 at once | not stable | - | - | - | - | - |" in text
    assert "- m, 8 at once: no 3 of 8 windows agreed" in text
    rows = list(csv.DictReader(written[1].read_text().splitlines()))
    assert [each["per_s"] for each in rows] == ["90.0", ""]
    assert rows[0]["batches"] == "1:2 4:2"
    assert written[2].read_bytes().startswith(b"\x89PNG")


def test_the_table_between_the_marks_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("# é\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nrest\n", encoding="utf-8")
    open_loop = replace(row(50.0), load=Load(rate=50.0))
    for _ in range(2):
        report.replace_table(file, [result_of(row(80.0), row(90.0, n=8), open_loop)], command="`x`")
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# é\n<!-- bench: begin -->\n| model |")
    assert text.endswith("`x`.\n<!-- bench: end -->\nrest\n")
    assert "| `m` | grpc, 8 at once | 90 | 1, 4 | 0.90 | grpc, 50/s Poisson | 1, 4 |" in text
    assert "old" not in text
    report.replace_table(file, [result_of(row(None, "why"))], command="`x`")
    assert "| `m` | not stable | - | - | - | - | - |" in file.read_text(encoding="utf-8")
    file.write_text("<!-- bench: end --><!-- bench: begin -->")
    with pytest.raises(TableMarksError):
        report.check_table_file(file)


def test_no_share_of_an_unstable_throughput_in_process() -> None:
    assert result_of(row(90.0)).share_of_ceiling(row(90.0)) == pytest.approx(0.9)
    moved = result_of(row(90.0), after_per_s=50.0)
    assert moved.share_of_ceiling(row(90.0)) is None
    assert any("the two measurements in process differ" in remark for remark in report.remarks(moved))


def test_session_layouts() -> None:
    assert session_layouts(64, 2) == (
        SessionLayout(2, 1, 1),
        SessionLayout(2, 1, 8),
        SessionLayout(1, 2, 1),
        SessionLayout(1, 2, 8),
    )
    assert session_layouts(1, 1) == (SessionLayout(1, 1, 1),)


@pytest.mark.parametrize(
    "words", [["--concurrency", "0"], ["--request-rate", "x"], ["--batch", "0"], ["--seconds", "inf"]]
)
def test_wrong_usage(run_tritone: Callable[..., Any], words: list[str]) -> None:
    done = run_tritone("bench", *words)
    assert done.status == 2
    assert words[0] in done.stderr


def test_a_missing_program_ends_the_bench(
    run_tritone: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_folder: Path) -> PerfAnalyzer:
        raise PerfAnalyzerMissingError("perf_analyzer is not installed; pip install x brings it")

    monkeypatch.setattr(PerfAnalyzer, "find", missing)
    done = run_tritone("bench", "--repository", tmp_path)
    assert (done.status, done.stdout) == (1, "")
    assert "pip install x" in done.stderr

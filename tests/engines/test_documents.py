"""The code of the guide about Ray and Spark runs, against a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser
from tests.engines.model_server import ModelServer

ROOT = Path(__file__).parents[2]
PAGE = "docs/how-to/ray-spark.md"


@pytest.mark.usefixtures("ray_cluster")
def test_the_code_of_the_guide_runs(
    spark: Any, server: ModelServer, music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = {"localhost:8001": server.address, '"music': f'"{music}', '"genres"': f'"{tmp_path}/genres"'}
    real |= {'"embeddings"': f'"{tmp_path}/embeddings"', "reel-1": "piece/60", "jig-2": "piece/7"}

    def python(example: Example) -> None:
        source = str(example.parsed)
        for documented, used in real.items():
            source = source.replace(documented, used)
        text = type(example.parsed)(source, example.parsed.offset, example.parsed.line_offset)
        example.region.parsed = text
        example.parsed = text
        PythonEvaluator()(example)

    document = Sybil(parsers=[CodeBlockParser("python", python)], path=str(ROOT), pattern="*.md").parse(ROOT / PAGE)
    examples = list(document.examples())
    for example in examples:
        example.evaluate()
    assert len(examples) == 5
    assert "['listened', 'result', 'error', 'error_type']" in capsys.readouterr().out
    assert list((tmp_path / "genres").glob("*.parquet"))
    assert spark.read.parquet(str(tmp_path / "embeddings")).count() == 13

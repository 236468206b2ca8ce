"""Tests of what the SDK imports, and when."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import tritone

BLOCKED = (
    "torch",
    "onnx",
    "onnxruntime",
    "pandas",
    "matplotlib",
    "lightning",
    "scipy",
    "sklearn",
    "gevent",
    "music21",
    "opentelemetry",
    "fsspec",
    "s3fs",
    "duckdb",
    "ray",
    "pyspark",
    "pyarrow",
)


def run(script: str) -> str:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_client_works_without_heavy_packages() -> None:
    output = run(f"""
        import sys
        for name in {BLOCKED}:
            sys.modules[name] = None  # importing it raises ImportError
        import asyncio
        import numpy as np
        from tritone import *
        import tritone
        audio = (np.random.default_rng(0).uniform(-1, 1, 44_100), 44_100)
        for url in ("127.0.0.1:1", "http://127.0.0.1:1"):
            with MusicClient(url, retries=0) as music:
                try:
                    music.classify(audio)
                except ConnectionFailedError:
                    print("sync", url)

            async def main():
                async with AsyncMusicClient(url, retries=0) as music:
                    try:
                        await music.classify(audio)
                    except ConnectionFailedError:
                        print("async", url)

            asyncio.run(main())

        result = Classification("a", {{"a": 1.0}}, None, None, (TimelineWindow(0.0, {{"a": 1.0}}),),
                                np.zeros(256), "m", "1", 3.0, (), 0.0, 0.0)
        try:
            result.plot("x.png")
        except MissingExtraError as error:
            print("plots need the package matplotlib" in str(error), "tritone[scores]" in str(error))
    """)
    assert output.splitlines() == [
        "sync 127.0.0.1:1",
        "async 127.0.0.1:1",
        "sync http://127.0.0.1:1",
        "async http://127.0.0.1:1",
        "True True",
    ]


def test_errors_come_without_numpy_and_a_client_without_the_other_protocol() -> None:
    modules = "','".join(("numpy", "soundfile", "soxr", "grpc", "tritonclient", "aiohttp", "asyncio", "gevent"))
    output = run(f"""
        import sys
        watched = ['{modules}']
        from tritone import TritoneError
        print([name for name in watched if name in sys.modules])
        from tritone import MusicClient
        MusicClient("http://localhost:1")
        print([name for name in watched if name in sys.modules])
        MusicClient("localhost:1")
        print('aiohttp' in sys.modules, 'gevent' in sys.modules)
    """)
    assert output.splitlines() == ["[]", "['numpy', 'soundfile', 'soxr']", "False False"]


def test_music_needs_no_extra_until_it_is_read_or_saved() -> None:
    output = run(f"""
        import sys
        for name in {(*BLOCKED, "symusic", "pretty_midi")}:
            sys.modules[name] = None
        from tests.unit.client.writers import FakeWriters
        from tritone import *
        with MusicClient(transport=FakeWriters()) as music:
            piece = music.compose(bars=2, seed=7)
            print(piece.grid.n_frames, len(piece.to_dict()["notes"]) > 0)
            music.predict(piece)
            music.harmonize(piece, highest=True)
            music.interpolate(piece, piece)
            with music.stream_compose(prompt=piece, bars=1) as stream:
                print(len(list(stream)))
            wanted = (
                lambda: music.compose(prompt=b"MThd"), lambda: piece.save("x.mid"), lambda: piece.plot("x.png"),
                lambda: music.predict(piece).plot("x.png"),
            )
            for call in wanted:
                try:
                    call()
                except MissingExtraError as error:
                    print("pip install 'tritone[" in str(error))
    """)
    assert output.splitlines() == ["32 True", "1", "True", "True", "True", "True"]


def test_recommending_needs_no_extra() -> None:
    output = run(f"""
        import sys
        for name in {(*BLOCKED, "symusic", "pretty_midi")}:
            sys.modules[name] = None
        from tests.unit.client.recommenders import FakeRecommender
        from tritone import *
        with MusicClient(transport=FakeRecommender()) as music:
            print(music.recommend("42", n=2, explain=True).to_dict()["source"], len(music.similar("track-1")))
    """)
    assert output.splitlines() == ["user 10"]


def test_public_names() -> None:
    assert tritone.__all__ == sorted(tritone.__all__)
    for name in tritone.__all__:
        assert getattr(tritone, name) is not None
    assert dir(tritone) == tritone.__all__
    for name in tritone.__all__:
        assert getattr(tritone, name).__doc__, name

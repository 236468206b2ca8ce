"""The SDK is light: what it imports, and when."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import tritone_client

BLOCKED = ("torch", "onnx", "onnxruntime", "pandas", "matplotlib", "lightning", "scipy", "sklearn", "gevent", "music21")


def run(script: str) -> str:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_client_works_without_anything_heavy() -> None:
    output = run(f"""
        import sys
        for name in {BLOCKED}:
            sys.modules[name] = None  # importing it raises ImportError
        import asyncio
        import numpy as np
        from tritone_client import *
        import tritone_client
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
            print(error)
    """)
    assert output.splitlines() == [
        "sync 127.0.0.1:1",
        "async 127.0.0.1:1",
        "sync http://127.0.0.1:1",
        "async http://127.0.0.1:1",
        "drawing needs matplotlib, which is not installed: pip install 'tritone[train]'",
    ]


def test_errors_come_without_numpy_and_a_client_without_the_other_protocol() -> None:
    modules = "','".join(("numpy", "soundfile", "soxr", "grpc", "tritonclient", "aiohttp", "asyncio", "gevent"))
    output = run(f"""
        import sys
        watched = ['{modules}']
        from tritone_client import TritoneError
        print([name for name in watched if name in sys.modules])
        from tritone_client import MusicClient
        MusicClient("http://localhost:1")
        print([name for name in watched if name in sys.modules])
        MusicClient("localhost:1")
        print('aiohttp' in sys.modules, 'gevent' in sys.modules)
    """)
    assert output.splitlines() == ["[]", "['numpy', 'soundfile', 'soxr']", "False False"]


def test_public_names() -> None:
    assert tritone_client.__all__ == sorted(tritone_client.__all__)
    for name in tritone_client.__all__:
        assert getattr(tritone_client, name) is not None
    assert dir(tritone_client) == tritone_client.__all__
    for name in tritone_client.__all__:
        assert getattr(tritone_client, name).__doc__, name

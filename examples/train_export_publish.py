"""Train a classifier on a folder per label, export it, and publish the next version to a running server.

python examples/train_export_publish.py my_music --repository models --preset tiny            # before `tritone serve`
python examples/train_export_publish.py my_music --repository models --server localhost:8001  # while it runs
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tritone_training import train


def main() -> None:
    """Train in Python; export and publish with the command line, as a scheduled job would."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", help="publish to this running server; otherwise only export")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        checkpoint = train(
            "genre_cnn", data=arguments.data, out=out, preset=arguments.preset, seed=arguments.seed, progress=False
        )
        print(f"accuracy on held-out recordings: {checkpoint.metrics['test']['accuracy']:.2f}")
        options = ["--checkpoint", str(out), "--repository", str(arguments.repository)]
        verb = "publish" if arguments.server else "export"
        if arguments.server:
            options += ["--server", arguments.server]
        subprocess.run([sys.executable, "-m", "tritone_cli", verb, "genre_cnn", *options], check=True)


if __name__ == "__main__":
    main()

"""Classify every recording of a folder and write a CSV table.

python examples/classify_folder.py my_music labels.csv --server localhost:8001
"""

from __future__ import annotations

import argparse
import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tritone import Classification, InvalidAudioError, MusicClient

SUFFIXES = {".aiff", ".flac", ".mp3", ".ogg", ".opus", ".wav"}


def main() -> None:
    """Classify in eight threads, so that the server can batch, and list the files that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--server", default="localhost:8001")
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in SUFFIXES)

    with MusicClient(arguments.server) as music, ThreadPoolExecutor(8) as pool:

        def classify(path: Path) -> Classification | InvalidAudioError:
            try:
                return music.classify(path)
            except InvalidAudioError as error:
                return error

        results = list(zip(paths, pool.map(classify, paths), strict=True))

    with arguments.table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "probability", "problem"])
        for path, result in results:
            if isinstance(result, InvalidAudioError):
                writer.writerow([path, "", "", result.reason])
            else:
                writer.writerow([path, result.label, round(result.probabilities[result.label], 4), ""])
    print(f"{len(results)} recordings: {arguments.table}")


if __name__ == "__main__":
    main()

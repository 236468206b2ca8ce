"""Fit a recommender on a CSV file and recommend to a new user, in one process and without a server.

python examples/recommend_from_csv.py plays.csv --metadata songs.csv --history reel-1 --history reel-2
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tritone_training import ListeningFiles, load, train


def main() -> None:
    """Train, then recommend with the base model and reason behind each track."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plays", type=Path, help="columns user, item and, optionally, plays")
    parser.add_argument("--metadata", type=Path, help="columns item, title, artist")
    parser.add_argument("--history", action="append", required=True, help="item that the new user likes; repeatable")
    parser.add_argument("--preset", default="default", help="tiny for a quick try")
    parser.add_argument("--out", type=Path, default=Path("runs/recommend_from_csv"))
    arguments = parser.parse_args()

    checkpoint = train(
        "recommender",
        interactions=arguments.plays,
        listening=ListeningFiles(metadata=arguments.metadata),
        out=arguments.out,
        preset=arguments.preset,
        progress=False,
    )
    tracks = load(checkpoint).recommend(history=arguments.history, n=5, explain=True)
    if any(tracks.unknown.history):
        print("not in the log:", ", ".join(tracks.unknown.history))
    for track in tracks:
        print(f"{track.score:6.3f}  {track.title or track.track_id}")
        for reason in track.reasons[:2]:
            print(f"        {reason.amount:+.3f} by {reason.base_model}, because of {reason.because} {reason.id or ''}")


if __name__ == "__main__":
    main()

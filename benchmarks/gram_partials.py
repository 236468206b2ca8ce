"""Measure two ways to distribute the item Gram matrix of a listening log: by blocks of items, and as sums over users.

    python -m benchmarks.gram_partials [--sizes 8k 50k 200k] [--parts 2 8] [--json]

By blocks of items, each worker gets the whole log and computes rows of the matrix; only the strongest neighbours go
back. As sums over users, each part of the users is a partial Gram matrix that goes to the driver, which adds them. The
logs are those of `benchmarks.scale_recommender`. All is computed in this process with one thread, some rows of the
matrix at a time, as partial matrices of the larger logs would not fit into memory; nothing is sent. Bytes are those of
sparse matrices with indices and values of 32 bits; of partial matrices, which are symmetric, of one half.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks.scale_recommender import SIZES, simulate

N_NEIGHBOURS = 100  # of the default preset
N_PRODUCTS = 50_000_000  # of the rows that are computed at a time
BYTES_OF_ENTRY = 8


def main() -> None:
    """Measure each size with each number of parts, and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["8k", "50k", "200k"])
    parser.add_argument("--parts", nargs="+", type=int, default=[2, 8], help="parts of the users, one for each worker")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = [row for name in arguments.sizes for row in measure(name, arguments.parts)]
    if arguments.json:
        sys.stdout.write(json.dumps({"is_simulated": True, "results": results}) + "\n")
        return
    names = list(results[0])
    sys.stdout.write(f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n")
    for row in results:
        sys.stdout.write(f"| {' | '.join(str(row[name]) for name in names)} |\n")


def measure(name: str, parts: list[int]) -> list[dict[str, Any]]:
    """Return one row for each number of parts."""
    n_users, n_items, n_plays = SIZES[name]
    log = simulate(n_users, n_items, n_plays)
    log.data[:] = 1
    whole_s, _, _ = gram_of_parts([log])
    # The strongest neighbours, with their overlaps.
    back_bytes = n_items * N_NEIGHBOURS * BYTES_OF_ENTRY
    rows = []
    for n_parts in parts:
        bounds = np.linspace(0, n_users, n_parts + 1).astype(int).tolist()
        products_s, added_s, n_entries = gram_of_parts([log[first:end] for first, end in itertools.pairwise(bounds)])
        rows.append(
            {
                "log": name,
                "pairs": log.nnz,
                "workers": n_parts,
                "items: log to all workers, MB": megabytes(n_parts * (log.nnz * BYTES_OF_ENTRY)),
                "items: neighbours back, MB": megabytes(back_bytes),
                "items: products, s": round(whole_s, 1),
                "users: partial sums back, MB": megabytes(n_entries * BYTES_OF_ENTRY // 2),
                "users: products, s": round(products_s, 1),
                "users: addition on the driver, s": round(added_s, 1),
            }
        )
    return rows


def gram_of_parts(parts: list[sparse.csr_matrix]) -> tuple[float, float, int]:
    """Compute the Gram matrix of the items as a sum over parts of the users.

    Returns:
        (seconds of the products, seconds of the additions, entries of all partial matrices).
    """
    turned = [sparse.csr_matrix(part.T) for part in parts]
    work = sum(
        np.asarray(part @ np.diff(rows.indptr).astype(np.float64)) for part, rows in zip(turned, parts, strict=True)
    )
    ends = np.cumsum(work)
    products_s = added_s = 0.0
    n_entries = first = 0
    n_items = len(ends)
    while first < n_items:
        before = ends[first - 1] if first else 0.0
        end = max(first + 1, int(np.searchsorted(ends, before + N_PRODUCTS, side="right")))
        began_s = time.perf_counter()
        pieces = [part[first:end] @ rows for part, rows in zip(turned, parts, strict=True)]
        multiplied_s = time.perf_counter()
        total = pieces[0]
        for piece in pieces[1:]:
            total = total + piece
        products_s += multiplied_s - began_s
        added_s += time.perf_counter() - multiplied_s
        n_entries += sum(piece.nnz for piece in pieces)
        first = end
    return products_s, added_s, n_entries


def megabytes(n_bytes: int) -> int:
    """Return bytes in MB."""
    return round(n_bytes / 1e6)


if __name__ == "__main__":
    main()

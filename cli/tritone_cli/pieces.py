"""Write generated pieces to files and print them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from tritone_cli import console

if TYPE_CHECKING:
    from tritone import Piece

SOUND: Final = ".wav"
SCORES: Final = (".mid", ".midi", SOUND)
PICTURES: Final = (".png", ".svg", ".pdf")


def check_outs(outs: Sequence[Path] | None) -> None:
    """Check that the output files can be written, before the server is called.

    Raises:
        typer.BadParameter: an unknown suffix, or a folder that does not exist.
    """
    for out in outs or ():
        if out.suffix.lower() not in (*SCORES, *PICTURES):
            known = ", ".join((*SCORES, *PICTURES))
            raise typer.BadParameter(f"{out}: expected a file name that ends in {known}", param_hint="--out")
        if not out.parent.is_dir():
            raise typer.BadParameter(f"{out}: folder {out.parent} does not exist; create it first", param_hint="--out")


def write_pieces(verb: str, pieces: Sequence[Piece], outs: Sequence[Path] | None, *, as_json: bool) -> None:
    """Write pieces to files and print them; the file names of several pieces are numbered."""
    entries = []
    for number, piece in enumerate(pieces, 1):
        files = write_piece(verb, piece, outs, as_json=as_json, number=number, n_pieces=len(pieces))
        entries.append({**piece.to_dict(), "files": files})
    if as_json:
        console.print_json(entries[0] if len(pieces) == 1 else {"pieces": entries})


def write_piece(
    verb: str, piece: Piece, outs: Sequence[Path] | None, *, as_json: bool, number: int = 1, n_pieces: int = 1
) -> list[str]:
    """Write one of several pieces to files, and print it unless it is for JSON; return the paths of the files."""
    wanted = (_default(verb, piece),) if outs is None and not as_json else outs or ()
    if not as_json:  # before writing, so that the seed is known if writing fails
        _show(piece)
    written = [file for out in wanted if (file := _write(piece, _numbered(out, number, n_pieces)))]
    if not as_json:
        console.say(f"  written: {', '.join(written) or 'nothing'}")
    return written


def _default(verb: str, piece: Piece) -> Path:
    return Path(f"{verb}-{piece.seed}.mid")


def _numbered(path: Path, number: int, n_pieces: int) -> Path:
    digits = f"-{number:0{len(str(n_pieces))}d}" if n_pieces > 1 else ""
    return path.with_name(f"{path.stem}{digits}{path.suffix}")


def _write(piece: Piece, path: Path) -> str | None:
    """Return the path; None for the audio of a piece without notes, which is not an error."""
    if path.suffix.lower() in PICTURES:
        return str(piece.plot(path))
    if path.suffix.lower() == SOUND and not piece.grid.n_notes:
        console.say(f"{path}: not written, the piece has no notes")
        return None
    return str(piece.save(path))


def _show(piece: Piece) -> None:
    grid = piece.grid
    console.say(
        f"{piece.model} v{piece.model_version}, seed {piece.seed}: {_count(grid.n_bars, 'bar')}, "
        f"{_count(grid.n_notes, 'note')}, {grid.duration_s:.1f} s at {grid.tempo_qpm:g} quarters per minute"
    )
    conditions = _conditions(piece)
    if conditions:
        console.say(f"  {conditions}")
    if grid.dropped:
        console.say("  left out: " + ", ".join(f"{n} {_words(reason)}" for reason, n in grid.dropped.items()))


def _conditions(piece: Piece) -> str:
    """Return what a piece was asked to be in words; empty if nothing is known of it but the style and the ending."""
    given = piece.conditions
    key, density, voices = given.get("key"), given.get("density"), given.get("voices")
    words = [
        f"{key} {given.get('mode')}" if key else "",
        f"{density} density" if density else "",
        _count(voices, "voice") if voices else "",
    ]
    if not any(words):
        return ""
    words = [given.get("style") or "", *words, "with an ending" if given.get("ending") else ""]
    return ", ".join(word for word in words if word)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _words(reason: Any) -> str:
    return str(reason).replace("_", " ")

"""Packages that only an extra installs, asked for where they are used."""

from __future__ import annotations

from typing import Any, Final

from tritone.exceptions import MissingExtraError

INSTALL: Final = "pip install 'tritone[scores]'"


def require_symusic() -> Any:
    """Import symusic.

    Raises:
        MissingExtraError: with the command that installs it.
    """
    try:
        import symusic
    except ImportError as error:
        raise MissingExtraError(
            f"scores and rendering need the package symusic ({error}); install it with: {INSTALL}"
        ) from error
    return symusic

"""Results as pandas data frames."""

from __future__ import annotations

from typing import Any

from tritone.exceptions import MissingExtraError


def require_pandas() -> Any:
    """Import pandas.

    Raises:
        MissingExtraError: with the command that installs it.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError(
            f"data frames need the package pandas ({error}); install it with: pip install 'tritone[pandas]'"
        ) from error
    return pd

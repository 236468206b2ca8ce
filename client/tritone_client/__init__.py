"""The Tritone SDK."""

from tritone_client._exceptions import TritoneError

__all__ = ["TritoneError"]

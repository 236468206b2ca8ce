"""Normalise ids of users, tracks and tags.

Ids that look the same are the same id: `Jóga` typed on macOS (decomposed, NFD) and elsewhere (composed, NFC), and an id
to which a spreadsheet added a trailing blank. Training stores normalised ids, and the server normalises the ids of
requests. Needs only the standard library, because backends import it.
"""

from __future__ import annotations

import unicodedata
from typing import Final

# Everything that `str.strip` removes, such as the no-break space, and characters without width: soft hyphen, zero-width
# spaces and joiners, direction marks, byte order mark.
_BLANKS: Final = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\u00ad\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)

_LONGEST_COMPOSED: Final = 256  # characters; composing runs of combining marks takes quadratic time


def normalize_id(text: str) -> str:
    """Return an id in Unicode's composed form (NFC), without blanks and invisible characters around it.

    Blanks inside an id, letter case and compatibility forms (full-width letters, ligatures) stay as they are.
    Longer ids than 256 characters are not composed.
    """
    if text.isascii():
        return text.strip()
    text = text.strip(_BLANKS)
    if len(text) <= _LONGEST_COMPOSED:
        text = unicodedata.normalize("NFC", text)
    return text.strip(_BLANKS)

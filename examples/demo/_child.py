"""A `tritone` command as a child process that ends with its parent, however that ends.

```
python -m tritone_cli.demonstration.child train music_vae --preset demo --json
```
"""

from __future__ import annotations

import ctypes
import signal
from typing import Final

from tritone_cli.main import main

_PR_SET_PDEATHSIG: Final = 1

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    main()

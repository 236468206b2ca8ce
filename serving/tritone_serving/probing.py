"""Do the models of a running server answer? What `tritone probe` asks, for health checks.

```python
with Calls(make_endpoint("127.0.0.1:8001")) as calls:
    healthy = all(result.ok for result in probe(calls, timeout_s=5))
```
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tritone_serving._exceptions import CanaryError
from tritone_serving.calls import Calls
from tritone_serving.canary import sing

_N_AT_ONCE = 8


@dataclass(frozen=True)
class Probed:
    """What one model did.

    Attributes:
        ok: it answered as its configuration says.
        seconds: how long it took.
        version: which version answered; empty if none did.
        why: what was wrong, in one line.
    """

    model: str
    ok: bool
    seconds: float
    version: str = ""
    why: str = ""


def probe(calls: Calls, models: Sequence[str] = (), *, timeout_s: float) -> list[Probed]:
    """Send a canary through each model, all within `timeout_s`.

    Args:
        models: empty means all that are loaded.

    Raises:
        CanaryError: the server does not answer at all, or serves nothing.
    """
    deadline = time.monotonic() + timeout_s
    loaded = calls.models(timeout_s=timeout_s)
    wanted = sorted(models or loaded)
    if not wanted:
        raise CanaryError("the server has no model loaded", model="", failure="absent")

    def ask(model: str) -> Probed:
        begun = time.monotonic()
        try:
            config = calls.config(model, timeout_s=max(0.01, deadline - begun))
            sung = sing(calls, model, config, timeout_s=max(0.01, deadline - time.monotonic()))
        except CanaryError as error:
            return Probed(model, False, time.monotonic() - begun, why=str(error))
        return Probed(model, True, sung.seconds, sung.version)

    with ThreadPoolExecutor(_N_AT_ONCE) as pool:
        return list(pool.map(ask, wanted))

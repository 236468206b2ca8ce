"""REST gateway: HTTP and JSON in front of the models, with OpenAPI, API keys and limits.

Every route is a call of the asynchronous SDK; the gateway runs no model itself.

```python
from tritone_gateway import GatewaySettings, create_app

app = create_app(GatewaySettings(server="localhost:8001"))  # an ASGI application
```
"""

from __future__ import annotations

from tritone_gateway.app import create_app
from tritone_gateway.settings import GatewaySettings

__all__ = ["GatewaySettings", "create_app"]

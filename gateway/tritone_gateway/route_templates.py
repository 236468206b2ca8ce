"""The route of a request that was refused before a route could serve it, for metrics and logs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import BaseRoute


class RouteTemplates:
    """Templates of the routes of an application, such as `/v1/tracks/{track_id}/audio`.

    Most paths are looked up in a dictionary, as refusals must cost less than what they protect.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._fixed: set[str] = set()
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for context in iter_route_contexts(routes):
            route: Any = context
            if not isinstance(context.original_route, APIRoute):
                continue
            if route.param_convertors:
                self._patterns.append((route.path_regex, route.path))
            else:
                self._fixed.add(route.path)

    def find(self, path: str) -> str | None:
        """Return the template that a path matches, with any method; None if there is no such route."""
        if path in self._fixed:
            return path
        return next((template for pattern, template in self._patterns if pattern.match(path)), None)

"""Health checks and repair of a running server."""

"""API keys: authentication, scopes, rates and concurrency of callers."""

"""Model repositories on disk."""

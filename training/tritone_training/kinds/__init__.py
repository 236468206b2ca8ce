"""One folder per model kind, each with the same file names."""

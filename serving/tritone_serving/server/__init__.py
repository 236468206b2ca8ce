"""Launch and control of one Triton server."""

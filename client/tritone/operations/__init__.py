"""The operations of the clients: options, request flows without input or output, and parsing of responses."""

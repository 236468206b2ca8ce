"""`tritone bench`: loads, example requests, statistics of the server, throughput in process, and the report."""

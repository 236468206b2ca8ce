"""What stands behind `tritone bench`: inputs, loads, the server's own counts, the ceiling, and the report."""

"""Data sets: labelled recordings, scores and listening logs, with reports on data that cannot be used."""

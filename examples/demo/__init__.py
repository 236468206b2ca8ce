"""The demo: train, export and serve small models, call them, and write a page with the results."""

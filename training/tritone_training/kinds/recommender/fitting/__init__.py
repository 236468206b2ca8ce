"""Fitting of the base models to a listening log."""

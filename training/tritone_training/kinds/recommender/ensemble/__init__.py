"""The ensemble of base models: selection and weights, and scoring without a server."""

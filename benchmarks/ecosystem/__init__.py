"""A Hub of millions of synthetic models, served over HTTP: nights, faults, rate limits."""

"""Probes that run a model on a prompt set."""

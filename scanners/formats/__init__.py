"""Readers of weight files, each bounded before it allocates."""

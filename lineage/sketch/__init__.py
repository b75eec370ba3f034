"""The aligned sample of a revision's weights."""

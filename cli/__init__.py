"""The only face: commands, progress and tables."""

"""The statistics of safety loss: intervals, contrasts and verdicts."""

"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A machine may be busy: no example fails for the time it takes.
settings.register_profile("modelkin", deadline=None)
settings.load_profile("modelkin")

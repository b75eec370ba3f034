"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A machine may be busy: no example fails for the time it takes.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

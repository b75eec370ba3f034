"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A machine may be busy: no example fails for the time it takes. The same examples in every run: a
# change is judged by what it changed. HYPOTHESIS_PROFILE=search draws new ones.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("suite", settings.get_profile("search"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

"""What the whole Hub would cost, computed from unit costs that were measured.

    python -m benchmarks.night_costs

Unit costs come from `benchmarks.nightly` (listing and fetch); the rate limits are those that the
Hub publishes for its plans, of which a scan uses four fifths.
"""

from __future__ import annotations

from dataclasses import dataclass

MODELS = 3_500_000
CHANGES = 13_200
SHARE = 0.8
WINDOW_HOURS = 5 / 60
# Requests in five minutes: API, resolvers.
PLANS = {
    "anonymous": (500, 3_000),
    "free": (1_000, 5_000),
    "PRO": (2_500, 12_000),
    "Team": (3_000, 20_000),
    "Enterprise": (6_000, 50_000),
    "Enterprise Plus": (10_000, 100_000),
    "higher limits": (100_000, 500_000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCosts:
    """Measured: a listed model (microseconds of CPU, kB), a read one (calls, ms of CPU, kB)."""

    page: int = 1000
    list_cpu_us: float = 164
    list_kilobytes: float = 0.78
    store_bytes: float = 310
    api_calls: float = 1
    resolver_calls: float = 3
    read_cpu_ms: float = 11.7
    read_kilobytes: float = 745


def main() -> None:
    """Print the tables of docs/nightly.md."""
    unit = UnitCosts()
    requests = MODELS / unit.page
    print(f"listing: {requests:,.0f} requests, {MODELS * unit.list_kilobytes / 1e6:,.1f} GB,")
    print(f"  {MODELS * unit.list_cpu_us / 1e6 / 60:,.0f} CPU minutes")
    print(f"reading all: {MODELS * unit.read_cpu_ms / 3.6e6:,.0f} CPU hours,")
    print(f"  {MODELS * unit.read_kilobytes / 1e9:,.1f} TB")
    print(f"store: {MODELS * unit.store_bytes / 1e9:,.1f} GB")
    print("| plan | list everything | describe all | resolve all | a night |")
    print("|---|---|---|---|---|")
    for plan, limits in PLANS.items():
        cells = [_span(hours) for hours in _hours(unit, *limits)]
        print("| " + " | ".join([plan, *cells]) + " |")


def _hours(unit: UnitCosts, api: int, resolvers: int) -> tuple[float, float, float, float]:
    per_api, per_resolver = WINDOW_HOURS / (SHARE * api), WINDOW_HOURS / (SHARE * resolvers)
    listing = MODELS / unit.page * per_api
    describe = MODELS * unit.api_calls * per_api
    resolve = MODELS * unit.resolver_calls * per_resolver
    pages = 2 * CHANGES / unit.page
    night = max((pages + CHANGES) * per_api, CHANGES * unit.resolver_calls * per_resolver)
    return listing, describe, resolve, night


def _span(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.1f} d"
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:,.0f} min"


if __name__ == "__main__":
    main()

"""What happens to models between their listing and their visit, and to a token on the way."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_hub import FaultyHub, Naps, status
from small_models import tiny_weights, write_model

from modelkin.lineage.errors import (
    AccessDenied,
    BudgetExceeded,
    MalformedFile,
    ModelkinError,
    ModelNotFound,
    QueryRefused,
    TransientError,
)
from modelkin.lineage.records import ModelInfo, Outcome
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.fetching import Batch, Fetched, fetch_batch
from modelkin.scanners.sources.base import ListingFilter
from modelkin.scanners.sources.hub import HubSource
from modelkin.store.facts import Visit

TOKEN = "hf_" + "canary" * 4


def fetch(hub: FaultyHub, infos: tuple[ModelInfo, ...], *, token: str | None = None) -> Fetched:
    async def work() -> Fetched:
        source = HubSource(endpoint=hub.url, token=token, retry=Naps().policy())
        try:
            return await fetch_batch(Batch(number=0, infos=infos), source=source)
        finally:
            await source.close()

    return asyncio.run(work())


def listed(hub: FaultyHub) -> tuple[ModelInfo, ...]:
    source = HubSource(endpoint=hub.url)
    pages = list(source.pages(narrow=ListingFilter(), traffic=Traffic()))
    asyncio.run(source.close())
    return tuple(info for page in pages for info in page.models)


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ModelInfo, Visit]]:
    """What was listed and what the visit found, by the listed name."""
    root = tmp_path_factory.mktemp("races")
    for name in ("kept", "gone", "old", "forced", "dark"):
        write_model(root, f"org/{name}")
    with FaultyHub(root) as before:
        infos = listed(before)
        dark = before.exhibits["org/dark"].file("model.safetensors")
        identity = before.exhibits["org/old"].facts["_id"]
    shutil.rmtree(root / "org/gone")
    (root / "org/old").rename(root / "org/new")
    (root / "hub.json").write_text(json.dumps({"org/new": {"moved_from": ["org/old"]}}))
    write_model(root, "org/forced", tiny_weights("another"))
    with FaultyHub(root) as after:
        after.exhibits["org/new"].facts["_id"] = identity  # type: ignore[index]
        assert dark is not None
        assert dark.sha256 is not None
        after.plan(f"/cdn/.*{dark.sha256}|/cdn/org/dark", status(503), times=1000)
        found = fetch(after, infos).visits
    return {info.name: (info, visit) for info, visit in zip(infos, found, strict=True)}


def test_a_model_that_vanished_is_not_found_and_gets_no_tombstone_by_itself(
    visits: dict[str, tuple[ModelInfo, Visit]],
) -> None:
    _, visit = visits["org/gone"]
    assert (visit.coverage.outcome, visit.info) == (Outcome.NOT_FOUND, None)
    assert visit.hidden, "an anonymous client cannot tell what is gone from what is private"


def test_a_renamed_model_is_read_under_its_new_name_and_stays_itself(
    visits: dict[str, tuple[ModelInfo, Visit]],
) -> None:
    info, visit = visits["org/old"]
    assert visit.coverage.outcome is Outcome.OK
    assert visit.info is not None
    assert (visit.info.name, visit.info.source_id) == ("org/new", info.source_id)


def test_of_a_branch_set_elsewhere_the_new_commit_is_read(
    visits: dict[str, tuple[ModelInfo, Visit]],
) -> None:
    info, visit = visits["org/forced"]
    assert visit.coverage.outcome is Outcome.OK
    assert visit.info is not None
    assert visit.info.sha != info.sha
    _, kept = visits["org/kept"]
    assert kept.info is not None
    assert kept.info.sha == visits["org/kept"][0].sha


def test_an_outage_of_part_of_the_content_host_costs_that_part(
    visits: dict[str, tuple[ModelInfo, Visit]],
) -> None:
    outcomes = {name: visit.coverage.outcome for name, (_, visit) in visits.items()}
    assert outcomes["org/dark"] is Outcome.TIMEOUT
    assert outcomes["org/kept"] is Outcome.OK


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FaultyHub]:
    write_model(tmp_path, "org/one")
    with FaultyHub(tmp_path, tokens=[TOKEN]) as served:
        yield served


@pytest.mark.parametrize("pattern", ["/api/models/", "/resolve/.*config", "/resolve/.*safetensors"])
def test_a_token_that_is_refused_on_the_way_is_no_gate_of_the_model(
    hub: FaultyHub, pattern: str
) -> None:
    refusal = status(401, X_Error_Message="Invalid credentials in Authorization header")
    hub.plan(pattern, refusal, times=100)
    with pytest.raises(AccessDenied, match="the token is refused") as caught:
        fetch(hub, listed(hub), token=TOKEN)
    assert caught.value.reason == "token"
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        AccessDenied("m: no", model="o/m", reason="token"),
        ModelNotFound("m: no", model="o/m", hidden=True),
        TransientError("later", retry_after=3.0),
        BudgetExceeded("enough", limit=3, actual=4),
        MalformedFile("bad", path="x", offset=7),
        QueryRefused("no"),
    ],
)
def test_errors_pass_from_process_to_process(error: ModelkinError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)

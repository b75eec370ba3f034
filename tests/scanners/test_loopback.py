"""The loopback Hub speaks the Hub's protocol, as the client library of the Hub sees it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from faulty_hub import TOKEN, WEIGHTS, make_models
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RevisionNotFoundError,
)

from modelkin.lineage.errors import MalformedFile
from modelkin.scanners.sources.loopback import LoopbackHub


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_models(tmp_path, "acme/base", "acme/child", "lab/gguf", "acme/gated", "acme/off")
    (tmp_path / "lab/gguf" / WEIGHTS).rename(tmp_path / "lab/gguf" / "m-Q4_K.gguf")
    (tmp_path / "hub.json").write_text(
        json.dumps(
            {
                "acme/base": {"created": "2026-01-01T00:00:00Z", "moved_from": ["old/base"]},
                "acme/child": {"created": "2026-01-02T00:00:00Z"},
                "acme/gated": {"gated": "manual"},
                "acme/off": {"disabled": True},
                "lab/gguf": "nonsense",
            }
        )
    )
    return tmp_path


@pytest.fixture
def hub(root: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(root, tokens=[TOKEN]) as running:
        yield running


@pytest.fixture
def api(hub: LoopbackHub) -> Iterator[HfApi]:
    yield HfApi(endpoint=hub.url, token=False)
    huggingface_hub.close_session()


def ask(
    hub: LoopbackHub, path: str, *, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=600)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_the_client_library_lists_and_describes(api: HfApi) -> None:
    listed = list(api.list_models(expand=["sha", "createdAt", "tags", "cardData"]))
    assert [model.id for model in listed][:2] == ["acme/child", "acme/base"]
    assert listed[0].created_at == datetime(2026, 1, 2, tzinfo=UTC)
    assert listed[0].card_data is not None
    assert listed[0].card_data["license"] == "mit"
    assert listed[0].downloads is None
    info = api.model_info("acme/base", files_metadata=True)
    assert info.siblings is not None
    lfs = {file.rfilename: file.lfs for file in info.siblings}
    assert lfs["config.json"] is None
    assert lfs[WEIGHTS] is not None
    assert lfs[WEIGHTS].size == 200_000
    assert api.model_info("old/base").id == "acme/base"
    gguf = api.model_info("lab/gguf")
    assert "base_model:quantized:acme/base" in (gguf.tags or [])


def test_the_client_library_downloads(api: HfApi, root: Path, tmp_path_factory: Any) -> None:
    target = tmp_path_factory.mktemp("cache")
    for path in (WEIGHTS, "config.json"):
        got = api.hf_hub_download("acme/base", path, cache_dir=target)
        assert Path(got).read_bytes() == (root / "acme/base" / path).read_bytes()
    tree = {item.path for item in api.list_repo_tree("acme/base")}
    assert tree == {WEIGHTS, "config.json", "README.md"}


def test_the_client_library_understands_the_refusals(api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError):
        api.model_info("no/such")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("acme/base", revision="nope")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("acme/base", "none.json")
    with pytest.raises(GatedRepoError):
        api.get_hf_file_metadata(url=f"{api.endpoint}/acme/gated/resolve/main/{WEIGHTS}")
    with pytest.raises(DisabledRepoError):
        api.get_hf_file_metadata(url=f"{api.endpoint}/acme/off/resolve/main/{WEIGHTS}")


def test_pages_follow_one_another(hub: LoopbackHub) -> None:
    path, seen = "/api/models?limit=2&sort=createdAt", []
    while path:
        code, headers, body = ask(hub, path)
        assert code == 200
        seen += [item["id"] for item in json.loads(body)]
        link = headers.get("Link", "")
        path = link.split(">")[0].removeprefix(f"<{hub.url}")
    assert len(seen) == len(set(seen)) == 5
    assert hub.counters == {"api": 3}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("author=lab", {"lab/gguf"}),
        ("search=CHI", {"acme/child"}),
        ("filter=base_model:quantized:acme/base", {"lab/gguf"}),
        ("filter=safetensors,license:mit&author=acme&search=base", {"acme/base"}),
        ("cursor=junk&limit=junk&search=base", {"acme/base"}),
        ("cursor=99999", set()),
    ],
)
def test_filters(hub: LoopbackHub, query: str, found: set[str]) -> None:
    assert {item["id"] for item in json.loads(ask(hub, f"/api/models?{query}")[2])} == found


def test_large_files_lie_behind_a_signed_redirect_to_another_host(
    hub: LoopbackHub, root: Path
) -> None:
    code, headers, _ = ask(hub, f"/acme/base/resolve/main/{WEIGHTS}", method="HEAD")
    assert code == 302
    assert headers["Location"].startswith(f"http://localhost:{hub.port}/cdn/acme/base/")
    assert headers["X-Linked-Size"] == "200000"
    file = hub.exhibits["acme/base"].file(WEIGHTS)
    assert file is not None
    assert headers["X-Linked-Etag"] == f'"{file.sha256}"'
    content = headers["Location"].split(str(hub.port))[1]
    weights = (root / "acme/base" / WEIGHTS).read_bytes()
    code, headers, body = ask(hub, content, Range="bytes=5-14")
    assert (code, body) == (206, weights[5:15])
    assert headers["Content-Range"] == "bytes 5-14/200000"
    assert ask(hub, content, Range="bytes=199990-")[2] == weights[-10:]
    assert ask(hub, content, Range="bytes=200000-")[0] == 416
    assert ask(hub, content, Range="lines=1-2")[0] == 200
    assert hub.counters["content_bytes"] == 10 + 10 + 200_000


def test_small_files_lie_on_the_endpoint(hub: LoopbackHub) -> None:
    code, headers, _ = ask(hub, "/acme/base/resolve/main/config.json")
    assert code == 307
    assert headers["Location"].startswith("/api/resolve-cache/models/acme/base/")
    assert json.loads(ask(hub, headers["Location"])[2])["model_type"] == "llama"


@pytest.mark.parametrize(
    "path",
    [
        "/acme/base/resolve/main/../../../hub.json",
        "/acme/base/resolve/main/..%2f..%2fhub.json",
        f"/cdn/acme/base/{'0' * 64}/../../../hub.json",
        f"/cdn/acme/base/{'0' * 64}/%2e%2e/child/config.json",
        f"/cdn/no/such/{'0' * 64}/x",
        "/etc/passwd",
        "/api/models/acme/base/tree/nope",
    ],
)
def test_only_listed_files_are_served(hub: LoopbackHub, path: str) -> None:
    assert ask(hub, path)[0] == 404


def test_tokens_open_gates_and_wrong_ones_are_refused(hub: LoopbackHub) -> None:
    path = f"/acme/gated/resolve/main/{WEIGHTS}"
    assert ask(hub, path)[1]["X-Error-Code"] == "GatedRepo"
    assert ask(hub, path, Authorization=f"Bearer {TOKEN}")[0] == 302
    code, headers, _ = ask(hub, path, Authorization="Bearer wrong")
    assert (code, "Invalid credentials" in headers["X-Error-Message"]) == (401, True)


def test_creation_times_come_from_the_caller_first(root: Path) -> None:
    moment = datetime(2020, 1, 1, tzinfo=UTC)
    with LoopbackHub(root, created={"acme/base": moment, "lab/gguf": moment}) as hub:
        listed = json.loads(ask(hub, "/api/models")[2])
    stamps = {item["id"]: item.get("createdAt") for item in listed}
    assert stamps["acme/base"] == stamps["lab/gguf"] == "2020-01-01T00:00:00.000Z"
    assert stamps["acme/gated"] is None


def test_a_damaged_manifest_is_reported(root: Path) -> None:
    (root / "hub.json").write_text("[")
    with pytest.raises(MalformedFile):
        LoopbackHub(root)


def test_hostile_cards_and_configs_cost_their_model_its_facts_only(root: Path) -> None:
    bomb = "---\na: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n---\n"
    (root / "acme/base/README.md").write_text(bomb)
    (root / "acme/base/config.json").write_text("[" * 100_000)
    with LoopbackHub(root) as hub:
        item = json.loads(ask(hub, "/api/models/acme/base")[2])
    assert (item["cardData"], item["config"]) == ({}, {})


def test_nothing_is_printed(hub: LoopbackHub, capfd: pytest.CaptureFixture[str]) -> None:
    ask(hub, "/api/models")
    ask(hub, "/nothing")
    assert capfd.readouterr() == ("", "")

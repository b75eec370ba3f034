"""The Hub's webhooks: checked, kept as hints, followed by the next night."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from faulty_hub import FaultyHub
from hypothesis import given
from hypothesis import strategies as st
from nights import run_night, write_config
from small_models import rows_of, tiny_weights, write_model

from modelkin.cli.listening import HintServer
from modelkin.lineage.errors import AccessDenied, ModelkinError
from modelkin.scanners.hints import FOLDER, LARGEST, receive_hint, take_hints

SECRET = "a-long-shared-secret"


def delivery(name: Any = "lab/new", **more: Any) -> bytes:
    whole = {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {"type": "model", "name": name, "id": "1", "headSha": "a" * 40},
        "webhook": {"id": "w", "version": 3},
        **more,
    }
    return json.dumps(whole).encode()


def take(store: Path, body: bytes, *, secret: str | None = SECRET) -> str | None:
    return receive_hint(store, body, given=secret, secret=SECRET)


def test_a_delivery_is_kept_once_by_the_name_it_has_now(tmp_path: Path) -> None:
    assert take(tmp_path, delivery()) == "lab/new"
    assert take(tmp_path, delivery()) == "lab/new"
    assert take(tmp_path, delivery(movedTo={"name": "lab/moved"})) == "lab/moved"
    assert set(take_hints(tmp_path)) == {"lab/new", "lab/moved"}


@pytest.mark.parametrize("secret", [None, "", "wrong", SECRET + "x"])
def test_a_wrong_secret_keeps_nothing(tmp_path: Path, secret: str | None) -> None:
    with pytest.raises(AccessDenied):
        take(tmp_path, delivery(), secret=secret)
    assert take_hints(tmp_path) == {}


@pytest.mark.parametrize(
    "body",
    [
        delivery("../../etc/passwd"),
        delivery(7),
        delivery(event={"scope": "discussion"}),
        delivery(repo={"type": "dataset", "name": "lab/data"}),
    ],
)
def test_what_is_no_news_of_a_model_is_no_hint(tmp_path: Path, body: bytes) -> None:
    assert take(tmp_path, body) is None
    assert not (tmp_path / FOLDER).exists()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_hint_or_a_named_fault(tmp_path_factory: Any, body: bytes) -> None:
    try:
        take(tmp_path_factory.getbasetemp(), body)
    except ModelkinError as error:
        assert str(error)  # noqa: PT017


def test_a_damaged_hint_is_dropped(tmp_path: Path) -> None:
    take(tmp_path, delivery())
    for path in (tmp_path / FOLDER).glob("*.json"):
        path.write_bytes(b"{")
    assert take_hints(tmp_path) == {}
    assert not list((tmp_path / FOLDER).glob("*.json"))


def test_the_server_answers_by_the_rules(tmp_path: Path) -> None:
    with HintServer(("127.0.0.1", 0), store=tmp_path, secret=SECRET) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()

        def post(body: bytes, secret: str) -> int:
            url = f"http://127.0.0.1:{server.server_address[1]}/"
            asked = urllib.request.Request(url, body, {"X-Webhook-Secret": secret})
            try:
                with urllib.request.urlopen(asked, timeout=600) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                with error:
                    return error.code

        try:
            codes = [post(delivery(), SECRET), post(delivery(), "no"), post(b"nonsense", SECRET)]
            codes.append(post(b" " * (LARGEST + 1), SECRET))
        finally:
            server.shutdown()
            thread.join()
    assert codes == [204, 401, 400, 413]


def test_a_night_follows_a_hint_that_the_listing_does_not_show(tmp_path: Path) -> None:
    write_model(tmp_path / "hub", "lab/base", tiny_weights("base"))
    write_model(tmp_path / "hub", "lab/new", tiny_weights("new"))
    with FaultyHub(tmp_path / "hub") as hub:
        config = write_config(tmp_path, hub.url)
        config.write_text(config.read_text().replace("[hub]", '[hub]\nsearch = "base"'))
        take(tmp_path / "store", delivery("lab/new"))
        take(tmp_path / "store", delivery("lab/gone"))
        result = run_night(config)
    assert result.exit_code == 0, result.stderr
    found = rows_of(tmp_path / "store", "SELECT model, outcome FROM coverage ORDER BY ALL")
    assert found == [("lab/base", "ok"), ("lab/new", "ok")]
    assert take_hints(tmp_path / "store") == {}

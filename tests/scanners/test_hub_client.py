"""Endpoints other than loopback: what is refused at once, and the client library's session."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

import huggingface_hub
import pytest
from faulty_hub import (
    TOKEN,
)

from modelkin.lineage.errors import (
    ModelkinError,
    TransientError,
    UnsafeRequest,
)
from modelkin.scanners.bytes import Traffic
from modelkin.scanners.sources.hub import HubSource


def test_unusable_endpoints_and_tokens_are_refused_at_once() -> None:
    with pytest.raises(UnsafeRequest):
        HubSource(endpoint="http://hub.example")
    with pytest.raises(UnsafeRequest) as caught:
        HubSource(token="hf_secret\r\nX: y")
    assert "hf_secret" not in str(caught.value)


def test_a_remote_endpoint_goes_through_the_client_library() -> None:
    httpx = import_module("huggingface_hub.utils").httpx
    asked: list[Any] = []

    def answer(request: Any) -> Any:
        asked.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b'{"id": "acme/base"}'))

    huggingface_hub.set_client_factory(lambda: httpx.Client(transport=httpx.MockTransport(answer)))
    try:
        client = HubSource(endpoint="https://hub.example/prefix/", token=TOKEN)
        assert client.info("acme/base", traffic=Traffic()).name == "acme/base"
        asyncio.run(client.close())
    finally:
        utils = import_module("huggingface_hub.utils._http")
        huggingface_hub.set_client_factory(utils.default_client_factory)
    assert str(asked[0].url) == "https://hub.example/prefix/api/models/acme/base?blobs=true"
    assert asked[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_offline_mode_is_no_passing_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelkinError, match="offline") as caught:
        HubSource(endpoint="https://hub.invalid").info("acme/base", traffic=Traffic())
    assert not isinstance(caught.value, TransientError)

"""Where requests may go, which names may stand in them, and what answers mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkin.lineage.errors import (
    AccessDenied,
    ModelkinError,
    ModelNotFound,
    TransientError,
    UnsafeRequest,
)
from modelkin.scanners.sources.answers import (
    Subject,
    asked_wait,
    next_link,
    parse_content_range,
    parse_digest,
    parse_etag,
    parse_length,
    refusal,
    window_wait,
)
from modelkin.scanners.sources.endpoint import Endpoint, redact
from modelkin.scanners.sources.names import (
    check_file_path,
    check_model_id,
    check_sha,
    is_model_id,
    quote_path,
)

HUB = Endpoint(url="https://huggingface.co")
LOCAL = Endpoint(url="http://127.0.0.1:8765")
AT = "https://huggingface.co/acme/base/resolve/main/a"


@pytest.mark.parametrize(
    "url",
    [
        "http://huggingface.co",
        "ftp://huggingface.co",
        "https://user:secret@huggingface.co",
        "https://huggingface.co/?q=1",
        "https://huggingface.co:0",
        "https://huggingface.co:99999999",
        "https://[::1",
        "https://",
        "huggingface.co",
        "https://hugging face.co",
        "http://127.0.0.1.evil.example",
        "",
    ],
)
def test_an_endpoint_is_https_or_loopback(url: str) -> None:
    with pytest.raises(UnsafeRequest) as caught:
        Endpoint(url=url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "location",
    [
        "https://us.aws.cdn.hf.co/x?Signature=1",
        "https://cas-bridge.xethub.hf.co/x",
        "https://cdn-lfs.huggingface.co/x",
        "https://huggingface.co/api/resolve-cache/x",
        "/api/resolve-cache/x",
    ],
)
def test_redirects_to_the_hub_and_its_content_hosts_are_followed(location: str) -> None:
    assert HUB.redirect(AT, location=location).startswith("https://")


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/x",
        "https://evilhf.co/x",
        "https://hf.co.evil.example/x",
        "http://us.aws.cdn.hf.co/x",
        "http://huggingface.co/x",
        "https://us.aws.cdn.hf.co:8443/x",
        "https://us.aws.cdn.hf.co@evil.example/x",
        "https://evil.example\\@us.aws.cdn.hf.co/x",
        "//evil.example/x",
        "https://169.254.169.254/latest/meta-data",
        "https://127.0.0.1/x",
        "file:///etc/passwd",
        "https://us.aws.cdn.hf.co/x y",
        "https://us.aws.cdn.hf.co/x\r\nHost: evil",
        "https://[::1",
    ],
)
def test_other_redirects_are_refused(location: str) -> None:
    with pytest.raises(UnsafeRequest):
        HUB.redirect(AT, location=location)


def test_a_loopback_endpoint_redirects_to_loopback_only() -> None:
    at = "http://127.0.0.1:8765/a"
    assert LOCAL.redirect(at, location="http://localhost:1/x") == "http://localhost:1/x"
    with pytest.raises(UnsafeRequest):
        LOCAL.redirect(at, location="http://10.0.0.1/x")


def test_allowed_hosts_are_exact_unless_starred() -> None:
    endpoint = Endpoint(url="https://hub.example", allowed=("cdn.example",))
    at = "https://hub.example/a"
    assert endpoint.redirect(at, location="https://cdn.example/x")
    for location in ("https://a.cdn.example/x", "https://us.aws.cdn.hf.co/x"):
        with pytest.raises(UnsafeRequest):
            endpoint.redirect(at, location=location)


def test_the_token_goes_to_the_same_scheme_host_and_port_only() -> None:
    assert HUB.owns("https://huggingface.co:443/x")
    assert not HUB.owns("https://huggingface.co:8443/x")
    assert not HUB.owns("http://huggingface.co/x")
    assert not HUB.owns("https://cdn.huggingface.co/x")
    assert not LOCAL.owns("http://localhost:8765/x")


def test_redacted_links_keep_no_secret() -> None:
    assert redact("https://me:pw@cdn.example/a?Signature=s#f") == "https://cdn.example/a"
    assert redact("https://[::1") == "<malformed link>"


def test_addresses_are_built_from_checked_names() -> None:
    url = HUB.file_url("acme/base", sha="a" * 40, path="sub folder/ü%.bin")
    assert url == f"https://huggingface.co/acme/base/resolve/{'a' * 40}/sub%20folder/%C3%BC%25.bin"
    for model, sha, path in [
        ("../x", "a" * 40, "f"),
        ("a/b", "main", "f"),
        ("a/b", "", "f"),
        ("a/b", "a" * 40, "../f"),
    ]:
        with pytest.raises(UnsafeRequest):
            HUB.file_url(model, sha=sha, path=path)


@pytest.mark.parametrize("name", ["gpt2", "acme/base-1b", "a/b.c_d-e", "A" * 96 + "/" + "b" * 96])
def test_model_ids(name: str) -> None:
    assert check_model_id(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "/", "a/", "/a", "a/b/c", "a/..", "../a", ".", "a b/c", "a/b?c", "a/b#c", "a%2fb", "a\\b",
     "a/b\n", "é/b", "a" * 97, "http://169.254.169.254/a", "a/b\0"],
)  # fmt: skip
def test_crafted_ids_are_refused(name: str) -> None:
    assert not is_model_id(name)
    with pytest.raises(UnsafeRequest):
        check_model_id(name)


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../b", "a/./b", "a//b", "a/", "a\\b", "C:x", "a\0b", "a\nb",
     "a\x7fb", "a\x85b", "a\u202eb", "a\u2066b", "\ud800", "x" * 256, "ü" * 128, "a/" * 600 + "b"],
)  # fmt: skip
def test_crafted_file_names_are_refused(path: str) -> None:
    with pytest.raises(UnsafeRequest) as caught:
        check_file_path(path)
    assert str(caught.value).isprintable()


@given(st.text(max_size=300))
def test_a_quoted_path_is_plain_and_stays_below(path: str) -> None:
    try:
        quoted = quote_path(path)
    except UnsafeRequest:
        return
    assert quoted.isascii()
    assert not quoted.startswith("/")
    assert not {"..", "."} & set(quoted.split("/"))
    assert not set("?#\\ ") & set(quoted)


@pytest.mark.parametrize("sha", ["", "main", "A" * 40, "a" * 39, "a" * 65, "g" * 40])
def test_reads_are_pinned_to_full_digests(sha: str) -> None:
    with pytest.raises(UnsafeRequest):
        check_sha(sha)


def test_waits_are_read_from_both_headers() -> None:
    assert window_wait({"RateLimit": '"api";r=0;t=55'}) == 55
    assert window_wait({"RateLimit": '"api";r=1;t=55'}) is None
    assert window_wait({"RateLimit": "nonsense"}) is None
    assert asked_wait({"RateLimit": '"api"; r = 0 ; t = 55', "Retry-After": "9"}) == 55
    assert asked_wait({"Retry-After": "9"}) == 9
    for text in ("-1", "1e9", "inf", "99999999999", "Wed, 21 Oct 2026 07:28:00 GMT", ""):
        assert asked_wait({"Retry-After": text}) is None


def test_headers_are_parsed_or_dropped() -> None:
    assert next_link({"Link": '<https://a/b>; rel="prev", <https://a/c>; rel="next"'}) == (
        "https://a/c"
    )
    assert next_link({"Link": '<https://a/b>; rel="prev"'}) is None
    found = parse_content_range("bytes 5-9/100")
    assert found is not None
    assert (found.begin, found.end, found.total) == (5, 10, 100)
    assert parse_content_range("bytes */100") is None
    assert parse_content_range(None) is None
    assert parse_length("12") == 12
    assert parse_length("-1") is None
    assert parse_length("1" * 20) is None
    assert parse_etag('W/"abc"') == "abc"
    assert parse_etag('""') is None
    assert parse_digest('"' + "a" * 64 + '"') == "a" * 64
    assert parse_digest('"' + "a" * 40 + '"') is None


@given(st.text(max_size=60))
def test_no_header_breaks_a_parser(text: str) -> None:
    headers = {"RateLimit": text, "Retry-After": text, "Link": text}
    asked_wait(headers)
    next_link(headers)
    parse_content_range(text)
    parse_length(text)
    parse_digest(text)


@pytest.mark.parametrize(
    ("code", "headers", "kind", "reason"),
    [
        (401, {"X-Error-Message": "Invalid username or password."}, ModelNotFound, None),
        (404, {"X-Error-Code": "RepoNotFound"}, ModelNotFound, None),
        (404, {"X-Error-Code": "EntryNotFound"}, ModelNotFound, None),
        (404, {"X-Error-Code": "RevisionNotFound"}, ModelNotFound, None),
        (410, {}, ModelNotFound, None),
        (401, {"X-Error-Code": "GatedRepo"}, AccessDenied, "gated"),
        (403, {"X-Error-Code": "GatedRepo"}, AccessDenied, "gated"),
        (
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            AccessDenied,
            "token",
        ),
        (
            403,
            {"X-Error-Message": "Access to this resource is disabled."},
            AccessDenied,
            "disabled",
        ),
        (403, {}, AccessDenied, "unauthorized"),
        (451, {}, AccessDenied, "disabled"),
        (408, {}, TransientError, None),
        (429, {}, TransientError, None),
        (500, {}, TransientError, None),
        (504, {}, TransientError, None),
        (400, {}, UnsafeRequest, None),
    ],
)
def test_refusals(
    code: int, headers: dict[str, str], kind: type[ModelkinError], reason: str | None
) -> None:
    error = refusal(code, headers, subject=Subject(model="acme/base", path="f"))
    assert type(error) is kind
    assert getattr(error, "reason", None) == reason
    assert "acme/base" in str(error)


def test_a_listing_refused_is_no_missing_model() -> None:
    error = refusal(401, {}, subject=Subject(model=""))
    assert isinstance(error, AccessDenied)
    assert "listing" in str(error)

"""Signatures on snapshots and exports, with a key made here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner, Result

from modelkin.cli.main import cli
from modelkin.lineage.errors import MalformedFile, RegistryError
from modelkin.store.signing import check_signature, sign, signature_of

pytest.importorskip("model_signing", reason="SIGNATURES NOT TESTED: pip install 'modelkin[sign]'")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Keys(NamedTuple):
    private: Path
    public: Path


def _keys(folder: Path, *, password: bytes | None = None) -> Keys:
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    lock = (
        serialization.NoEncryption()
        if password is None
        else serialization.BestAvailableEncryption(password)
    )
    pem = serialization.Encoding.PEM
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, lock)
    )
    (folder / "key.pub").write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return Keys(folder / "key.pem", folder / "key.pub")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return _keys(tmp_path / "own")


@pytest.fixture
def run(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    shutil.copytree(small_store, tmp_path / "store")
    monkeypatch.setenv("MODELKIN_STORE", str(tmp_path / "store"))
    return lambda *words: CliRunner().invoke(cli, [str(word) for word in words])


def test_a_snapshot_is_signed_checked_and_restored(
    run: Callable[..., Result], tmp_path: Path, keys: Keys
) -> None:
    other = _keys(tmp_path / "other")
    result = run("dump", "--sign-key", keys.private)
    assert (result.exit_code, "signed: " in result.stderr) == (0, True)
    assert run("verify", "--signed-by", keys.public).exit_code == 0
    wrong = run("verify", "--signed-by", other.public, "--format", "csv")
    assert (wrong.exit_code, "signature,2" in wrong.stdout) == (2, True)
    listed = run("dump", "--list", "--format", "csv").stdout.splitlines()
    assert [line.split(",")[::6] for line in listed] == [["snapshot", "signed"], ["2", "True"]]

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "store" / "snapshots" / "2", elsewhere)
    restore = ("restore", elsewhere, "--replace", "--signed-by")
    refused = run(*restore, other.public)
    assert (refused.exit_code, "signature does not hold" in refused.stderr) == (2, True)
    assert run(*restore, keys.public).exit_code == 0
    (elsewhere / "smuggled.parquet").write_bytes(b"x")
    refused = run(*restore, keys.public)
    assert (refused.exit_code, "smuggled.parquet" in refused.stderr) == (2, True)


def test_an_export_is_signed_beside_it(
    run: Callable[..., Result], tmp_path: Path, keys: Keys
) -> None:
    out = tmp_path / "graph.dot"
    words = ("export", "lab/base", "--to", "dot", "--sign-key", keys.private)
    assert "-o FILE" in run(*words).stderr
    assert run(*words, "-o", out).exit_code == 0
    check_signature(out, key=keys.public)
    out.write_text(out.read_text().replace("lab/base", "lab/other"))
    with pytest.raises(MalformedFile, match="does not hold"):
        check_signature(out, key=keys.public)


def test_an_encrypted_key_signs_with_its_password_alone(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, out = _keys(tmp_path / "locked", password=b"opens it"), tmp_path / "graph.dot"
    words = ("export", "lab/base", "--to", "dot", "-o", out, "--sign-key", keys.private)
    refused = run(*words, "--sign-password", "does not open it")
    assert (refused.exit_code, "is not signed with" in refused.stderr) == (2, True)
    assert run(*words, "--sign-password", "opens it").exit_code == 0
    check_signature(out, key=keys.public)
    monkeypatch.setenv("MODELKIN_SIGN_PASSWORD", "opens it")
    assert run("dump", "--sign-key", keys.private).exit_code == 0
    assert run("verify", "--signed-by", keys.public).exit_code == 0


def test_the_tool_of_that_project_agrees(tmp_path: Path, keys: Keys) -> None:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    signature = sign(folder, key=keys.private)
    verb = [sys.executable, "-m", "model_signing", "verify", "key", str(folder)]
    options = ["--signature", str(signature), "--public_key", str(keys.public)]
    done = subprocess.run([*verb, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sign(folder, key=keys.private) == signature  # an older signature is not signed with it
    check_signature(folder, key=keys.public)


def test_an_encrypted_key_wants_its_password(tmp_path: Path) -> None:
    locked = _keys(tmp_path / "locked", password=b"long enough")
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(RegistryError, match="not signed with"):
        sign(file, key=locked.private)
    sign(file, key=locked.private, password="long enough")
    check_signature(file, key=locked.public)


@pytest.mark.parametrize(
    "bundle", [b"", b"{}", b"[]", b"\xff", b'{"dsseEnvelope": 3}', b'{"mediaType": "x"}']
)
def test_a_bundle_that_is_none_is_told(tmp_path: Path, keys: Keys, bundle: bytes) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(MalformedFile, match="no signature"):
        check_signature(file, key=keys.public)
    signature_of(file).write_bytes(bundle)
    with pytest.raises(MalformedFile, match="does not hold"):
        check_signature(file, key=keys.public)
    with pytest.raises(RegistryError, match="no public key"):
        check_signature(file, key=file)

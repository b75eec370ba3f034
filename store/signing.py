"""Signatures on snapshots and exports by a key of one's own: OpenSSF Model Signing, extra `sign`.

A signature is a Sigstore bundle over the sha256 of every file, so `model_signing verify key` of
that project checks it as well. The package is imported where it is used: it takes seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..lineage.errors import MalformedFile, RegistryError
from .manifest import SIGNATURE

_EXTRA = "signatures need the extra sign: pip install 'modelkin[sign]'"
# How a bundle that is no bundle, or lacks a part, fails in the reader of that package.
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, OSError)


def signature_of(target: Path) -> Path:
    """Where the signature of a file or of a snapshot's folder lies."""
    return target / SIGNATURE if target.is_dir() else target.with_name(f"{target.name}.sig")


def sign(target: Path, *, key: Path, password: str | None = None) -> Path:
    """Sign a file, or a folder with every file in it; return where the signature is.

    Parameters
    ----------
    key : an elliptic-curve private key in PEM.
    password : of an encrypted key.

    Raises
    ------
    RegistryError : the extra `sign` is not installed, or the key or the target cannot be read.
    """
    signature = signature_of(target)
    try:
        from model_signing import signing

        signer = signing.Config().set_hashing_config(_hashing(signature))
    except ImportError as error:
        raise RegistryError(_EXTRA) from error
    # That package hands the password on as it is, and the reader of keys takes bytes alone.
    secret = None if password is None else password.encode()
    try:
        signer.use_elliptic_key_signer(private_key=key, password=secret)
        signer.sign(target.resolve(), signature)
    except (ValueError, TypeError, OSError) as error:
        raise RegistryError(f"{target} is not signed with {key}: {error}") from error
    return signature


def check_signature(target: Path, *, key: Path) -> None:
    """Hold a file or a folder against its signature; no file of the folder may be left out of it.

    Parameters
    ----------
    key : the public key in PEM that it must have been signed with.

    Raises
    ------
    MalformedFile : there is no signature, it is by another key, or a file is not what was signed.
    RegistryError : the extra `sign` is not installed, or the key cannot be read.
    """
    signature = signature_of(target)
    try:
        from cryptography.exceptions import InvalidSignature
        from model_signing import verifying

        checker = verifying.Config().set_hashing_config(_hashing(signature))
    except ImportError as error:
        raise RegistryError(_EXTRA) from error
    try:
        checker.use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError, OSError) as error:
        raise RegistryError(f"{key} is no public key in PEM: {error}") from error
    if not signature.is_file():
        raise MalformedFile("not signed: there is no signature", path=str(signature))
    try:
        checker.verify(target.resolve(), signature)
    except (*_BROKEN, InvalidSignature) as error:
        raise MalformedFile(f"the signature does not hold: {error}", path=str(target)) from error


def _hashing(signature: Path) -> Any:
    from model_signing import hashing

    # A relative path would be looked for below the target.
    return hashing.Config().set_ignored_paths(paths=[signature.resolve()], ignore_git_paths=False)

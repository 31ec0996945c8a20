"""Signatures of bundles: OpenSSF's model signing with the user's own key, offline, in its standard `model.sig`."""

from pathlib import Path
from typing import Any

from purify_edge.bundle.hub import blobs_beside
from purify_edge.errors import BundleError, InputError
from purify_edge.extras import require_library

SIGNATURE = "model.sig"
OF_THE_HUB = ("README.md", ".gitattributes")
"""What a repository on the Hugging Face hub has beside a bundle's files, and nothing of ours reads."""


def _library() -> Any:
    return require_library("model_signing", "sign")


def _hashing(library: Any, folder: Path) -> Any:
    """Return how a folder's files are hashed: by their content, where they may be links."""
    is_cached = blobs_beside(folder) is not None
    ignored = [SIGNATURE, *(OF_THE_HUB if is_cached else ())]
    config = library.hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=False)
    return config.set_allow_symlinks(is_cached)


def require_key(key: Path) -> None:
    """Check that a private key can sign, before long work that ends with it.

    Raises:
        MissingError: the library is not installed.
        InputError: no key there that can be used.
    """
    library = _library()
    try:
        library.signing.Config().use_elliptic_key_signer(private_key=key)
    except Exception as error:  # it may raise anything that cryptography does
        raise InputError(
            f"{key} cannot be used to sign ({error}): expected an unencrypted private key in PEM on a NIST curve, "
            "by openssl ecparam -name prime256v1 -genkey -noout -out KEY, say"
        ) from error


def sign(folder: Path, key: Path) -> None:
    """Sign all files of a folder with a private key; the signature goes into its `model.sig`.

    Raises:
        MissingError, InputError: see `require_key`.
    """
    require_key(key)
    library = _library()
    config = library.signing.Config().use_elliptic_key_signer(private_key=key)
    config.set_hashing_config(_hashing(library, folder)).sign(folder, folder / SIGNATURE)


def verify(folder: Path, key: Path) -> None:
    """Check that a folder is what the owner of a public key's private key signed: these files and no others.

    Raises:
        MissingError: the library is not installed.
        InputError: no public key there.
        BundleError: there is no signature, it is another key's, or a file was changed, added or removed.
    """
    library = _library()
    if not (folder / SIGNATURE).is_file():
        raise BundleError(f"{folder} is not signed: it has no {SIGNATURE}; leave out --verify, or have it signed")
    try:
        config = library.verifying.Config().use_elliptic_key_verifier(public_key=key)
    except Exception as error:
        raise InputError(f"{key} cannot be used to verify ({error}): expected a public key in PEM") from error
    try:
        config.set_hashing_config(_hashing(library, folder)).verify(folder, folder / SIGNATURE)
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise BundleError(f"{folder} is not what the owner of {key} signed: {reason}; do not use it") from error

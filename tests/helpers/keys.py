"""Keys to sign and verify with."""

import importlib
from pathlib import Path


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """A private key and its public key, in PEM."""
    elliptic = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ec")
    form = importlib.import_module("cryptography.hazmat.primitives.serialization")
    key = elliptic.generate_private_key(elliptic.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return private, public

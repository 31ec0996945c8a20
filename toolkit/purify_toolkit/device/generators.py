"""Random generators, seeded, on a device."""

import hashlib

import torch


def seeded(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that depends on the seed and on everything in `names`, and on nothing else."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)

"""purify-verify: a bundle against the live PyTorch networks of its run."""

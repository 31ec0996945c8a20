"""purify-check: parity with PyTorch and latency on this device, from the golden set."""

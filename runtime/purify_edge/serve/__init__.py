"""Serving: a bundle as a model of NVIDIA's Triton, and what runs inside it."""

"""The images that an export takes: those that judge, those that calibrate, and what PyTorch makes of them."""

"""purify-build: TensorRT engines of a bundle for this device."""

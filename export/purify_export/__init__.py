"""Turn a trained run into a checked bundle: PyTorch to ONNX to TensorRT, with a golden set and parity."""

"""From PyTorch to ONNX, in float32 and in fewer bits."""

"""What TensorRT and TensorRT for RTX share: building, loading and running an engine. Their Python APIs are one."""

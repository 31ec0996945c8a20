"""A bundle's graphs in runtimes that are not ours: OpenCV, MNN, ncnn and ONNX Runtime Web."""

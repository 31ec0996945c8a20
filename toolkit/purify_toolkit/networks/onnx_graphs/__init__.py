"""ONNX graphs of users' classifiers: read, put into the form that pixels need, converted for gradients, proven."""

"""Engines: what runs one ONNX graph, what runs a pair of them, and the plan that says which one a bundle takes here."""

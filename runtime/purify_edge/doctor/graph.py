"""A graph small enough to live in the code: it tells a library that works from one that is only there.

A convolution and a ReLU, for they need what a purifier needs: kernels for this GPU, and cuDNN where that is used. It
was made by the code in tests/runtime/test_doctor_native.py, which also checks that it still is that graph.
"""

import base64

INPUT, OUTPUT = "images", "purified"
SIZE = 8

PROBE_GRAPH = base64.b64decode(
    "CAgSC3B1cmlmeS1lZGdlOvMBCkcKBmltYWdlcwoHd2VpZ2h0cxIEc3VtcyIEQ29udioVCgxrZXJuZWxfc2hhcGVAA0ADoAEHKhEK"
    "BHBhZHNAAUABQAFAAaABBwoWCgRzdW1zEghwdXJpZmllZCIEUmVsdRIFcHJvYmUqOQgBCAEIAwgDEAFCB3dlaWdodHNKJAAAgD8A"
    "AIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAP1olCgZpbWFnZXMSGwoZCAESFQoHEgViYXRjaAoCCAEKAggICgIICGInCghw"
    "dXJpZmllZBIbChkIARIVCgcSBWJhdGNoCgIIAQoCCAgKAggIQgQKABAR"
)
"""ONNX, opset 17: float32 `[batch, 1, 8, 8]`, each pixel replaced by the sum of the 3x3 pixels around it."""


def right_answer() -> list[list[float]]:
    """The output for an image of ones, `[8, 8]`: how many neighbours each pixel has, itself included."""
    along = [2.0, *[3.0] * (SIZE - 2), 2.0]
    return [[row * column for column in along] for row in along]

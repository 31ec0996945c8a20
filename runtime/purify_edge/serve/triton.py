"""What Triton's Python backend runs: a bundle's pipeline; requests are checked one by one and run together.

A version of a model in the repository is a folder with `bundle/` and a `model.py` that names one of these classes, and
the SHA-256 of the bundle's manifest. See `repository`.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from purify_edge.bundle.reader import Bundle
from purify_edge.errors import BundleError, InputError
from purify_edge.images.decoding import decode_image
from purify_edge.pipeline.pipeline import Pipeline
from purify_edge.pipeline.prediction import Prediction

Pixels = NDArray[np.uint8]
Outputs = dict[str, NDArray[Any]]
PIXELS, FILES = "images", "files"
"""Names of the models' inputs."""
COUNTERS = {
    "purify_images_total": "Images, by what came of them.",
    "purify_changed_total": "Images whose class purification changed.",
    "purify_suspicious_total": "Images that were probably attacked.",
    "purify_refused_total": "Requests that could not be used.",
}
"""What the models count at Triton's /metrics: the names of `purify-run --metrics`, and the requests refused."""


class PixelModel:
    """A bundle for images of its own size: uint8 `[N, H, W, C]`, RGB.

    Attributes:
        manifest_sha256: of the bundle that was put into the repository; set by `model.py`.
    """

    manifest_sha256 = ""
    input_name = PIXELS

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle of this version, every file of it verified; an error keeps Triton from serving it."""
        self._backend: Any = import_module("triton_python_backend_utils")
        folder = Path(args["model_repository"]) / args["model_version"] / "bundle"
        bundle = Bundle.open(folder, allow_failed=True)  # it was asked for when it was written
        if bundle.sha256 != self.manifest_sha256:
            raise BundleError(
                f"{folder} is not the bundle that was put there: expected a manifest of SHA-256 "
                f"{self.manifest_sha256}, found {bundle.sha256}; write the version again with purify-serve"
            )
        bundle.verify()
        asked = {name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()}
        spare_clean = asked.get("spare_clean") == "true"  # models from before do not have it
        self._pipeline = Pipeline.load(
            bundle, engine=asked["engine"], precision=asked["precision"], spare_clean=spare_clean
        )
        self._counters = Counters(self._backend, {"model": args["model_name"], "version": args["model_version"]})

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return a response a request; one that cannot be used gets an error, and no other does."""
        read = [self._read(request) for request in requests]
        batches = [pixels for pixels in read if isinstance(pixels, np.ndarray)]
        self._counters.refused(len(read) - len(batches))
        found: Outputs = {}
        if batches:
            prediction = self._pipeline.predict(np.concatenate(batches))
            self._counters.count(prediction)
            found = outputs_of(prediction)
        responses, start = [], 0
        for request, pixels in zip(requests, read, strict=True):
            if not isinstance(pixels, np.ndarray):
                responses.append(self._backend.InferenceResponse(error=pixels))
                continue
            end = start + len(pixels)
            tensors = [
                self._backend.Tensor(name, np.ascontiguousarray(found[name][start:end]))
                for name in request.requested_output_names()
            ]
            responses.append(self._backend.InferenceResponse(output_tensors=tensors))
            start = end
        return responses

    def finalize(self) -> None:
        """Free the engines."""
        self._pipeline.close()

    def _read(self, request: Any) -> Pixels | Any:
        """Return a request's images, or Triton's error that says why they cannot be used."""
        given = self._backend.get_input_tensor_by_name(request, self.input_name).as_numpy()
        try:
            return self.pixels(given)
        except InputError as error:
            return self._backend.TritonError(str(error), self._backend.TritonError.INVALID_ARG)

    def pixels(self, given: NDArray[Any]) -> Pixels:
        """Return what the input holds as uint8 `[N, H, W, C]`.

        Raises:
            InputError: it is not as the class says.
        """
        if not len(given):
            raise InputError("the request has no image; expected one or more")
        pixels: Pixels = self._pipeline.prepare(given).astype(np.uint8, copy=False)
        return pixels


class FileModel(PixelModel):
    """A bundle for image files of any size and format, bytes `[N, 1]`: they become pixels as in `purify-run`."""

    input_name = FILES

    def pixels(self, given: NDArray[Any]) -> Pixels:
        """Return the decoded files; see `PixelModel.pixels`."""
        if not given.size:
            raise InputError("the request has no file; expected one or more")
        contents = enumerate(given.reshape(-1))
        contract = self._pipeline.input
        return np.stack([decode_image(content, contract, source=f"file {index}") for index, content in contents])


class Counters:
    """What a model did, at Triton's /metrics; nothing where the server keeps no metrics.

    Args:
        backend: Triton's module.
        labels: of every counter.
    """

    def __init__(self, backend: Any, labels: dict[str, str]) -> None:
        self._metrics: dict[tuple[str, str], Any] = {}
        with suppress(backend.TritonModelException):  # metrics are off
            self._families = [
                backend.MetricFamily(name=name, description=text, kind=backend.MetricFamily.COUNTER)
                for name, text in COUNTERS.items()
            ]
            for name, family in zip(COUNTERS, self._families, strict=True):
                for outcome in ("good", "error") if name == "purify_images_total" else ("",):
                    further = {"outcome": outcome} if outcome else {}
                    self._metrics[name, outcome] = family.Metric(labels=labels | further)

    def refused(self, requests: int) -> None:
        """Count requests that could not be used."""
        self._add("purify_refused_total", requests)

    def count(self, prediction: Prediction) -> None:
        """Count the images of a prediction; those without an answer are errors."""
        answered = prediction.labels >= 0
        self._add("purify_images_total", answered.sum(), "good")
        self._add("purify_images_total", (~answered).sum(), "error")
        if prediction.unpurified is not None:
            changed = answered & (prediction.unpurified.argmax(axis=1) != prediction.labels)
            self._add("purify_changed_total", changed.sum())
        if prediction.suspicious is not None:
            self._add("purify_suspicious_total", (answered & prediction.suspicious).sum())

    def _add(self, name: str, value: Any, outcome: str = "") -> None:
        if value and (name, outcome) in self._metrics:
            self._metrics[name, outcome].increment(float(value))


class HealthModel:
    """Whether a model answers: it is asked for an image that is known to be good.

    A process of a model that died leaves Triton "ready"; only an inference tells. Its input, `ask`, is not read; its
    output, `healthy`, is true, or the request ends with an error that says what failed.

    Attributes:
        asks: the name of that model.
        input_name, shape, dtype: of its input, an image that lies beside `model.py` as the file `image`.
    """

    asks, input_name, dtype = "", PIXELS, "uint8"
    shape: tuple[int, ...] = ()

    def initialize(self, args: dict[str, str]) -> None:
        """Read the image."""
        self._backend: Any = import_module("triton_python_backend_utils")
        content = (Path(args["model_repository"]) / args["model_version"] / "image").read_bytes()
        image = np.array([[content]], object) if self.dtype == "object" else np.frombuffer(content, self.dtype)
        self._image = image.reshape(self.shape)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Ask the model once, and answer all requests with what came of it."""
        error = self._ask()
        if error:
            return [self._backend.InferenceResponse(error=self._backend.TritonError(error)) for _ in requests]
        healthy = self._backend.Tensor("healthy", np.array([True]))
        return [self._backend.InferenceResponse(output_tensors=[healthy]) for _ in requests]

    def _ask(self) -> str:
        """Return what is wrong with the model; empty where nothing is."""
        response = self._backend.InferenceRequest(
            model_name=self.asks,
            requested_output_names=["probabilities"],
            inputs=[self._backend.Tensor(self.input_name, self._image)],
        ).exec()
        if response.has_error():
            return f"{self.asks} is not healthy: {response.error().message()}"
        probabilities = self._backend.get_output_tensor_by_name(response, "probabilities").as_numpy()
        return "" if np.isfinite(probabilities).all() else f"{self.asks} is not healthy: it has no answer"


def outputs_of(prediction: Prediction) -> Outputs:
    """Return a prediction as the tensors of the models' outputs, by their names.

    `probabilities` float32 `[N, K]`, `label` int64 `[N, 1]`, `purified` uint8 `[N, H, W, C]`, and where the bundle has
    a threshold `suspicion` float32 `[N, 1]` and `suspicious` bool `[N, 1]`; where clean images are spared, `spared`
    bool `[N, 1]`.
    """
    purified = np.rint(prediction.purified.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    found: Outputs = {
        "probabilities": prediction.probabilities,
        "label": prediction.labels[:, None],
        "purified": purified,
    }
    if prediction.suspicion is not None and prediction.suspicious is not None:
        found |= {"suspicion": prediction.suspicion[:, None], "suspicious": prediction.suspicious[:, None]}
    if prediction.spared is not None:
        found["spared"] = prediction.spared[:, None]
    return found

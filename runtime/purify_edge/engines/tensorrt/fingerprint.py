"""An engine's fingerprint: what it was built from, by, with and for, and how that differs from what is here."""

from typing import Any

import msgspec

from purify_edge.engines.tensorrt.cudart import Device
from purify_edge.engines.tensorrt.library import Library
from purify_edge.engines.tensorrt.options import BuildOptions

AMPERE = (8, 0)


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine fits: see `BuildOptions` for `batch` and `flags`.

    It was built on `gpu` with `driver`; they are None where any GPU of these compute capabilities will do.
    """

    onnx_sha256: str
    builder: str
    builder_version: str
    precision: str
    batch: tuple[int, int, int]
    compute_capabilities: tuple[str, ...]
    gpu: str | None = None
    driver: str | None = None
    flags: dict[str, Any] = {}

    def options(self) -> BuildOptions:
        """Return the options to build the like of it again, for the GPU at hand."""
        return BuildOptions.from_fingerprint(self.batch, self.flags)

    def differences(
        self,
        *,
        onnx_sha256: str,
        precision: str,
        library: Library,
        device: Device | None,
        options: BuildOptions | None = None,
    ) -> list[str]:
        """Return why the engine cannot be used here, as text; see `EngineFiles.find` for the arguments."""
        pairs = [
            ("ONNX graph", self.onnx_sha256[:12], onnx_sha256[:12]),
            ("precision", self.precision, precision),
            ("builder", self.builder, library.builder),
        ]
        if not (self.flags.get("version_compatible") and _release(self.builder_version) <= _release(library.version)):
            pairs.append(("builder's version", self.builder_version, library.version))
        pairs += self._of_device(device) if device else []
        pairs += self._of_options(options) if options else []
        return [f"{what} {there} there, {here} here" for what, there, here in pairs if there != here]

    def _of_device(self, device: Device) -> list[tuple[str, str, str]]:
        pairs = []
        if not self.flags.get("hardware_compatible"):
            if device.compute_capability not in self.compute_capabilities:
                known = " and ".join(self.compute_capabilities)
                pairs.append(("compute capability", known, device.compute_capability))
            if self.gpu is not None:
                pairs.append(("GPU", self.gpu, device.name))
        elif device.capability < AMPERE:
            pairs.append(("compute capability", "8.0 or later", device.compute_capability))
        if self.driver is not None:
            pairs.append(("driver", self.driver, device.driver))
        return pairs

    def _of_options(self, options: BuildOptions) -> list[tuple[str, str, str]]:
        pairs = [("batch", _words(self.batch), _words(options.batch))]
        if options.compute_capabilities:
            pairs += [("compute capabilities", _words(self.compute_capabilities), _words(options.compute_capabilities))]
        asked = options.flags()
        names = sorted(self.flags.keys() | asked.keys())
        return pairs + [(name, str(self.flags.get(name)), str(asked.get(name))) for name in names]


def _words(values: tuple[object, ...]) -> str:
    return ",".join(map(str, values))


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def read_fingerprint(values: dict[str, Any]) -> Fingerprint | None:
    """Return the fingerprint in a manifest; None where it is of another purify-edge."""
    try:
        return msgspec.convert(values, Fingerprint)
    except msgspec.ValidationError:
        return None

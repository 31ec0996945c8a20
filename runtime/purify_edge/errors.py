"""The errors: each says what was expected, what came and what to do next."""


def reason(error: BaseException) -> str:
    """Return the first line of a foreign exception, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


class PurifyError(Exception):
    """Base of all errors that a user can cause or fix; its command ends with `exit_code`."""

    exit_code = 2


class InputError(PurifyError, ValueError):
    """A file, an image, an array or a value that cannot be used."""


class BundleError(PurifyError, ValueError):
    """A bundle that is incomplete, damaged, or not one of ours."""


class MissingError(PurifyError, RuntimeError):
    """A dependency, a dataset or a device that this machine lacks."""

    exit_code = 3


class BuildError(PurifyError, RuntimeError):
    """A graph or an engine that its builder refused; carries the builder's own words."""


class DeviceError(MissingError):
    """A GPU that fails, runs out of memory, or is not there; `code` is CUDA's, where it gave one."""

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code

"""Which package has a missing shared library, and what the loader's other complaints mean."""

import re
from dataclasses import dataclass

from purify_edge.doctor.child import first_line
from purify_edge.doctor.host import Host


@dataclass(frozen=True)
class Package:
    """Where a library comes from: Debian's package on a Jetson, pip's, and Debian's elsewhere; empty for none."""

    jetson: str
    pip: str
    apt: str


CUDA_12, CUDA_13, CUDNN, TENSORRT = "cuda-toolkit-12", "cuda-toolkit-13", "nvidia-cudnn", "nvidia-tensorrt"

PACKAGES: dict[str, Package] = {
    "libcudart.so.12": Package("nvidia-cuda", "nvidia-cuda-runtime-cu12", CUDA_12),
    "libcudart.so.13": Package("nvidia-cuda", "nvidia-cuda-runtime", CUDA_13),
    "libcublas.so.12": Package("nvidia-cuda", "nvidia-cublas-cu12", CUDA_12),
    "libcublas.so.13": Package("nvidia-cuda", "nvidia-cublas", CUDA_13),
    "libcublasLt.so.12": Package("nvidia-cuda", "nvidia-cublas-cu12", CUDA_12),
    "libcublasLt.so.13": Package("nvidia-cuda", "nvidia-cublas", CUDA_13),
    "libcufft.so.11": Package("nvidia-cuda", "nvidia-cufft-cu12", CUDA_12),
    "libcufft.so.12": Package("nvidia-cuda", "nvidia-cufft", CUDA_13),
    "libcurand.so.10": Package("nvidia-cuda", "nvidia-curand", CUDA_13),
    "libnvrtc.so.12": Package("nvidia-cuda", "nvidia-cuda-nvrtc-cu12", CUDA_12),
    "libnvrtc.so.13": Package("nvidia-cuda", "nvidia-cuda-nvrtc", CUDA_13),
    "libnvJitLink.so.12": Package("nvidia-cuda", "nvidia-nvjitlink-cu12", CUDA_12),
    "libnvJitLink.so.13": Package("nvidia-cuda", "nvidia-nvjitlink", CUDA_13),
    "libcudnn.so.8": Package(CUDNN, "'nvidia-cudnn-cu12<9'", "libcudnn8"),
    "libcudnn.so.9": Package(CUDNN, "nvidia-cudnn-cu13", "cudnn9-cuda-13"),
    "libnvinfer.so.8": Package(TENSORRT, "", "libnvinfer8"),
    "libnvinfer.so.10": Package(TENSORRT, "'tensorrt==10.*'", "libnvinfer10"),
    "libnvinfer.so.11": Package(TENSORRT, "'tensorrt==11.*'", "libnvinfer11"),
    "libnvinfer_plugin.so.10": Package(TENSORRT, "'tensorrt==10.*'", "libnvinfer-plugin10"),
    "libnvinfer_plugin.so.11": Package(TENSORRT, "'tensorrt==11.*'", "libnvinfer-plugin11"),
    "libnvonnxparser.so.10": Package(TENSORRT, "'tensorrt==10.*'", "libnvonnxparsers10"),
    "libnvonnxparser.so.11": Package(TENSORRT, "'tensorrt==11.*'", "libnvonnxparsers11"),
    "libnvdla_compiler.so": Package("nvidia-l4t-dla-compiler", "", ""),  # on JetPack 6: see NO_DLA_COMPILER
    "libgomp.so.1": Package("libgomp1", "", "libgomp1"),
    "libstdc++.so.6": Package("libstdc++6", "", "libstdc++6"),
    "libz.so.1": Package("zlib1g", "", "zlib1g"),
}
"""Library -> its packages; apt's of CUDA and TensorRT need NVIDIA's repository. See also `driver_remedy`."""

FOR_CUDA_12 = {
    "libcurand.so.10": Package("nvidia-cuda", "nvidia-curand-cu12", CUDA_12),
    "libcudnn.so.9": Package(CUDNN, "nvidia-cudnn-cu12", "cudnn9-cuda-12"),
}
"""Those that are called the same in CUDA 12 and in CUDA 13, for which PACKAGES has them."""

DLA_COMPILER = "libnvdla_compiler.so"
NO_DLA_COMPILER = (38,)
"""JetPack 7's first release of Jetson Linux. From here on no package has the DLA's compiler, and JetPack's own TensorRT
does without it: one that asks for it was made for JetPack 6."""

DRIVERS_LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")

_UNLOADABLE = (
    r"([\w.+-]+\.so[\w.]*): (?:cannot open shared object file|file too short|invalid ELF header)",  # glibc
    r"Error loading shared library ([\w.+-]+\.so[\w.]*):",  # musl
)

# What else a loader or an import may complain of -> what it means, what to do.
_COMPLAINTS: tuple[tuple[str, str, str], ...] = (
    (
        r"cannot allocate memory in static TLS block",
        "too many libraries with thread-local storage are loaded before it; loading it first helps",
        "export LD_PRELOAD={library}",
    ),
    (
        r"version [`'](GLIBC|GLIBCXX|CXXABI)_[\d.]+' not found",
        "built for a newer system than this one: take an older version of the package, or a newer system",
        "",
    ),
    (
        r"(numpy\.core\.multiarray failed to import|compiled using NumPy 1\.x|_ARRAY_API not found)",
        "built for NumPy 1, NumPy 2 is installed",
        "pip install 'numpy<2'",
    ),
    (r"killed by SIGILL", "it uses instructions that this processor lacks: take a package built for it", ""),
    (r"no kernel image is available|cudaErrorNoKernelImageForDevice", "it was built without code for this GPU", ""),
)


def missing_libraries(message: str, host: Host) -> list[str]:
    """Return the libraries that the dynamic loader could not load, by its own message or by a log that quotes it.

    What else `ldd` misses in the files that the message names is among them.
    """
    missing = [match for pattern in _UNLOADABLE for match in re.findall(pattern, message)]
    for file in re.findall(r"/[^\s:'\"]+\.so[\w.]*", message) if missing else ():
        missing += re.findall(r"^\s*(\S+) => not found", host.run("ldd", file) or "", re.MULTILINE)
    return list(dict.fromkeys(missing))


def explain(message: str, host: Host) -> tuple[str, str]:
    """Return reason and remedy for a failed import or load, by its message; the remedy is empty if none is known."""
    missing = missing_libraries(message, host)
    if missing:
        return missing_reason(missing, host), install_remedy(missing, host)
    for pattern, reason, remedy in _COMPLAINTS:
        if re.search(pattern, message):
            library = re.search(r"(/[^\s:]+\.so[\w.]*)", message)
            return reason, remedy.format(library=library.group(1) if library else "LIBRARY")
    return first_line(message), ""


def missing_reason(libraries: list[str], host: Host) -> str:
    """Return a text that names the missing libraries, with the package of each."""
    packages = _packages(libraries, host)
    return "missing " + ", ".join(f"{library}{_source(library, packages.get(library), host)}" for library in libraries)


def _packages(libraries: list[str], host: Host) -> dict[str, Package]:
    """Return the package of each library that has one, all of them for one version of CUDA."""
    packages = {library: PACKAGES[library] for library in libraries if library in PACKAGES}
    names = [package.apt for library, package in packages.items() if library not in FOR_CUDA_12]
    driver = host.native("driver").result.get("cuda", 0)
    if CUDA_12 in names or (CUDA_13 not in names and 0 < driver < 13_000):
        packages |= {library: FOR_CUDA_12[library] for library in packages if library in FOR_CUDA_12}
    return packages


def _source(library: str, package: Package | None, host: Host) -> str:
    if library in DRIVERS_LIBRARIES:
        return " (NVIDIA's driver)"
    if package is None:
        return ""
    if library == DLA_COMPILER and is_without_dla_compiler(host):
        return " (no package of JetPack 7 has it: this TensorRT was made for JetPack 6)"
    if library == DLA_COMPILER and host.l4t == ():
        return f" (apt: {package.jetson} on JetPack 6; no package of JetPack 7 has it)"
    if host.is_jetson:
        return f" (apt: {package.jetson})"
    sources = [f"{kind}: {name}" for kind, name in (("pip", package.pip), ("apt", package.apt)) if name]
    return f" ({', '.join(sources)})" if sources else ""


def is_without_dla_compiler(host: Host) -> bool:
    """Return whether this is a Jetson whose JetPack has no compiler of the DLA."""
    return (host.l4t or ()) >= NO_DLA_COMPILER


def install_remedy(libraries: list[str], host: Host) -> str:
    """Return the command that installs missing libraries: apt's on a Jetson, else pip's, which needs no root."""
    if any(library in DRIVERS_LIBRARIES for library in libraries):
        return driver_remedy(host)
    if DLA_COMPILER in libraries and host.is_jetson and (host.in_container or is_without_dla_compiler(host)):
        return dla_compiler_remedy(host)
    packages = _packages(libraries, host).values()
    if host.is_jetson:
        return _command("sudo apt install", [package.jetson for package in packages])
    commands = (
        _command("pip install", [package.pip for package in packages]),
        _command("sudo apt install", [package.apt for package in packages if not package.pip]),
    )
    return " && ".join(command for command in commands if command)


def _command(install: str, packages: list[str]) -> str:
    names = list(dict.fromkeys(name for name in packages if name))
    return f"{install} {' '.join(names)}" if names else ""


def dla_compiler_remedy(host: Host) -> str:
    """Return what to do where apt cannot bring the DLA's compiler to where it is missing; empty for an unknown release.

    NVIDIA's runtime takes it from the device into a container.
    """
    if not host.l4t:
        return ""
    if not is_without_dla_compiler(host):
        return f"sudo apt install {PACKAGES[DLA_COMPILER].jetson}  # on the device, not in this container"
    if host.in_container:
        return "docker run --runtime nvidia IMAGE  # one with the TensorRT of JetPack 7"
    return "sudo apt install nvidia-jetpack && /usr/bin/python3 -m venv --system-site-packages ~/purify"


def driver_remedy(host: Host) -> str:
    """Return what brings NVIDIA's driver into a container, onto a Jetson, or onto a server."""
    if host.in_container:
        return "docker run --runtime nvidia IMAGE" if host.is_jetson else "docker run --gpus all IMAGE"
    if host.is_jetson:
        return "sudo apt install --reinstall nvidia-l4t-cuda && sudo reboot"
    release = host.read("/etc/os-release") or ""
    return "sudo ubuntu-drivers install --gpgpu && sudo reboot" if "ubuntu" in release.lower() else ""

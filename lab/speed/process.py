"""What a separate process takes: the time of a cold start, resident memory, and its growth over many calls."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lab.speed.bars import Process
from purify_edge.errors import BundleError

STARTS = 5
SOAK_BATCHES = 8
"""The soak's batches are of 1 to this many images."""
RUN = "from purify_edge.run.cli import main; main()"


def measure_process(bundle: Path, image_HWC: NDArray[np.uint8], *, engine: str, precision: str, soak: int) -> Process:
    """Start processes and look at them; `purify-run` is given the image, and `soak` predictions are made."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "image.png"
        pixels = image_HWC[:, :, 0] if image_HWC.shape[2] == 1 else image_HWC
        Image.fromarray(pixels).save(file)
        arguments = ["-c", RUN, str(bundle), str(file), "--engine", engine, "--precision", precision]
        starts = []
        for _ in range(STARTS + 1):
            start = time.perf_counter()
            _python(arguments)
            starts.append(time.perf_counter() - start)
    told = json.loads(_python(["-m", "lab.speed.process", str(bundle), engine, precision, str(soak)]))
    return Process(
        cold_start_s=tuple(starts[1:]),  # the first reads the libraries from the disk
        resident_mib=told["resident_mib"],
        soak_calls=soak,
        growth_mib=told["last_mib"] - told["tenth_mib"] if soak else None,
    )


def _python(arguments: list[str]) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BundleError(f"a process of the benchmark failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def resident_mib() -> float:
    """Return the resident memory of this process; where the system does not tell it, its largest so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(bundle: str, engine: str, precision: str, soak: str) -> None:
    """Load the pipeline, predict, and print what memory that takes."""
    from purify_edge import Pipeline

    random = np.random.default_rng(0)
    with Pipeline.load(bundle, engine=engine, precision=precision) as pipeline:
        shape = (64, pipeline.input.height, pipeline.input.width, pipeline.input.channels)
        images = random.integers(0, 256, shape, np.uint8)
        pipeline.predict(images[:1])
        pipeline.predict(images)
        resident = tenth = resident_mib()
        for call in range(int(soak)):
            pipeline.predict(images[: 1 + int(random.integers(SOAK_BATCHES))])
            if call == int(soak) // 10:
                tenth = resident_mib()
        print(json.dumps({"resident_mib": resident, "tenth_mib": tenth, "last_mib": resident_mib()}))


if __name__ == "__main__":
    main(*sys.argv[1:])

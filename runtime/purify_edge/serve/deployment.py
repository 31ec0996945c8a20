"""What stands around the servers of a repository: their start, a balancer, a container, Kubernetes, a dashboard."""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError
from purify_edge.files import atomic
from purify_edge.serve.config import ASK, CONFIG

START, FOLDER = "serve.sh", "deploy"
HEALTH = "-health"
"""What the name of a model's health model ends with."""
REPLICA = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:]+\]):(?P<http>\d+):(?P<grpc>\d+)")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
ON_THIS_HOST = ("127.0.0.1:8000:8001", "127.0.0.1:8010:8011")
MIN_BUFFER = 2**18
QUESTION = f'{{"inputs":[{{"name":"{ASK}","shape":[1],"datatype":"BOOL","data":[true]}}]}}'


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Where a repository's servers are to run.

    Attributes:
        replicas: HOST:HTTP_PORT:GRPC_PORT of each, for HAProxy.
        image: the name of the container's image; None for one made of the repository's.
    """

    replicas: tuple[str, ...] = ON_THIS_HOST
    image: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no address, and no name of an image.

        Raises:
            InputError: for one of them.
        """
        if self.image is not None and not IMAGE.fullmatch(self.image):
            raise InputError(f"--image {self.image!r}: expected the name of a container's image, like registry/pair:1")
        for replica in self.replicas:
            if not REPLICA.fullmatch(replica):
                raise InputError(f"--replica {replica}: expected HOST:HTTP_PORT:GRPC_PORT, like {ON_THIS_HOST[0]}")


def write_start(repository: Path) -> None:
    """Write `serve.sh`, which starts Triton with all models of the repository."""
    _write(repository / START, _template(START))
    (repository / START).chmod(0o755)


def write_deployment(repository: Path, model: str, deployment: Deployment, *, contract: InputContract) -> list[Path]:
    """Write `deploy/`: for HAProxy, a container, Kubernetes and Grafana; return the files that stay as they are.

    Those are files with another content than was written before the model came, or than would be written now.

    Args:
        repository: the folder, with the models that are to be watched.
        model: the one that was written just now.
        deployment: where the servers run.
        contract: of the images; a request that is to be asked again elsewhere must fit into HAProxy's buffer.

    """
    image_bytes = 4 * contract.channels * contract.height * contract.width
    healths = sorted(path.parent.name for path in repository.glob(f"*{HEALTH}/{CONFIG}"))
    before = [health for health in healths if health != model + HEALTH]
    stay = []
    for file in ("haproxy.cfg", "Dockerfile", "kubernetes.yaml", "grafana.json"):
        path = repository / FOLDER / file
        text, known = (
            _filled(_template(file), _values(repository, deployment, of, image_bytes)) for of in (healths, before)
        )
        if path.is_file() and path.read_text() not in (text, known):
            stay.append(path)
        else:
            path.parent.mkdir(exist_ok=True)
            _write(path, text)
    return stay


def _values(repository: Path, deployment: Deployment, healths: list[str], image_bytes: int) -> dict[str, str]:
    name = re.sub(r"[^a-z0-9]+", "-", repository.resolve().name.lower()).strip("-")[:40].rstrip("-") or "models"
    probes = [f"curl -sf -X POST localhost:8000/v2/models/{of}/infer -d '{QUESTION}'" for of in healths]
    values = {
        "name": f"purify-{name}",
        "image": deployment.image or f"purify-{name}:latest",
        "bufsize": str(max(MIN_BUFFER, 1 << (2 * image_bytes).bit_length())),
        "checks": "\n".join(["    option httpchk", *map(_check, healths)]),
        "probe": " &&\n                  ".join(probes),
    }
    for protocol, options in (("http", ""), ("grpc", " proto h2")):
        rows = (REPLICA.fullmatch(replica) for replica in deployment.replicas)
        values[protocol] = "\n".join(
            f"    server server{index} {row['host']}:{row[protocol]}{options} port {row['http']}"
            for index, row in enumerate(rows, start=1)
            if row
        )
    return values


def _check(health: str) -> str:
    return (
        "    http-check connect\n"
        f"    http-check send meth POST uri /v2/models/{health}/infer hdr Content-Type application/json "
        f"body '{QUESTION}'\n    http-check expect status 200"
    )


def _filled(text: str, values: dict[str, str]) -> str:
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def _template(file: str) -> str:
    return (files(__package__) / "templates" / file).read_text()


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)

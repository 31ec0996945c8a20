"""purify-serve: what it writes for the balancer, the container, Kubernetes and Grafana."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from purify_edge.bundle.reader import Bundle
from purify_edge.errors import InputError
from purify_edge.serve.cli import main
from purify_edge.serve.deployment import QUESTION, Deployment, write_deployment

FILES = {"Dockerfile", "grafana.json", "haproxy.cfg", "kubernetes.yaml"}


def serve(bundle: Path, repository: Path, *options: str) -> str:
    found = CliRunner().invoke(main, [str(bundle), str(repository), *options])
    assert found.exit_code == 0, found.stderr
    return found.stderr


def kubernetes(repository: Path) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((repository / "deploy" / "kubernetes.yaml").read_text()))


def test_the_manifests_are_valid_in_kubernetes(bundle_path: Path, tmp_path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    repository = tmp_path / "My Models"
    serve(bundle_path, repository, "--image", "registry.example:5000/pair:7")
    documents = kubernetes(repository)
    assert [of["kind"] for of in documents] == ["Deployment", "Service", "PodDisruptionBudget"]
    for document in documents:
        validate.validate(document, validate.latest_version(), strict=True)
    deployment, service, budget = documents
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example:5000/pair:7"
    assert deployment["metadata"]["name"] == "purify-my-models"
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels == service["spec"]["selector"] == budget["spec"]["selector"]["matchLabels"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} < ports


def test_all_models_of_a_repository_are_watched(bundle_path: Path, tmp_path: Path) -> None:
    serve(bundle_path, tmp_path, "--name", "one")
    assert "is not replaced" not in serve(bundle_path, tmp_path, "--name", "two", "--files")
    serve(bundle_path, tmp_path, "--name", "one")  # a new version
    balancer = (tmp_path / "deploy" / "haproxy.cfg").read_text()
    (container,) = kubernetes(tmp_path)[0]["spec"]["template"]["spec"]["containers"]
    for model in ("one", "two"):
        assert balancer.count(f"uri /v2/models/{model}-health/infer") == 2  # HTTP and gRPC
        for probe in ("readinessProbe", "livenessProbe"):
            assert f"models/{model}-health/infer -d '{QUESTION}'" in container[probe]["exec"]["command"][2]


def test_what_somebody_changed_stays(bundle_path: Path, tmp_path: Path) -> None:
    serve(bundle_path, tmp_path)
    deploy = tmp_path / "deploy"
    assert {path.name for path in deploy.iterdir()} == FILES
    board = json.loads((deploy / "grafana.json").read_text())
    assert len(board["panels"]) == 6
    changed = (deploy / "haproxy.cfg").read_text() + "# mine\n"
    (deploy / "haproxy.cfg").write_text(changed)
    told = serve(bundle_path, tmp_path)
    assert f"{deploy / 'haproxy.cfg'} was changed and is not replaced" in told
    assert "kubernetes.yaml" not in told
    assert (deploy / "haproxy.cfg").read_text() == changed


def test_the_balancer_knows_the_servers_and_keeps_requests(bundle_path: Path, tmp_path: Path) -> None:
    serve(bundle_path, tmp_path, "--replica", "one.example:80:81", "--replica", "[::1]:8000:8001")
    text = (tmp_path / "deploy" / "haproxy.cfg").read_text()
    for line in (
        "server server1 one.example:80 port 80\n",
        "server server2 [::1]:8000 port 8000\n",
        "server server1 one.example:81 proto h2 port 80\n",
        "server server2 [::1]:8001 proto h2 port 8000\n",
        "tune.bufsize 262144 ",
    ):
        assert line in text
    contract = Bundle.open(bundle_path).manifest.input
    (tmp_path / "deploy" / "haproxy.cfg").unlink()
    large = type(contract)(channels=3, height=384, width=384)
    write_deployment(tmp_path, "fashion-mnist", Deployment(), contract=large)
    text = (tmp_path / "deploy" / "haproxy.cfg").read_text()
    (size,) = (int(line.split()[1]) for line in text.splitlines() if "tune.bufsize" in line)
    assert size > 4 * 3 * 384 * 384  # float32, of a native model
    assert "server server2 127.0.0.1:8010 port 8010\n" in text


@pytest.mark.parametrize("replica", ["one.example", "one.example:80", ":80:81", "a b:1:2", "one:80:81\nserver evil"])
def test_an_address_that_is_none_is_refused(bundle_path: Path, tmp_path: Path, replica: str) -> None:
    with pytest.raises(InputError, match="expected HOST:HTTP_PORT:GRPC_PORT, like 127"):
        Deployment(replicas=(replica,))
    found = CliRunner().invoke(main, [str(bundle_path), str(tmp_path / "models"), "--replica", replica])
    assert found.exit_code == 2
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("image", ["", "a b", "pair:1\nevil: true", "pair: x"])
def test_an_image_name_that_is_none_is_refused(image: str) -> None:
    with pytest.raises(InputError, match="expected the name of a container's image"):
        Deployment(image=image)

"""Static checks of deploy/: Dockerfiles, Compose files and manifests agree with each other and with the settings."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.edge.process import EXIT_SECONDS
from deploy.edge.settings import Settings as EdgeSettings
from service.app.settings import Settings
from tests.support.paths import ROOT
from training.settings import Settings as TrainingSettings

DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("docker/*.Dockerfile"))
COMPOSE = [ROOT / "docker-compose.yml", *sorted(DEPLOY.glob("compose/*.yml"))]
OVERLAYS = ("overlays/cpu", "overlays/gpu", "torchrun")
SECURED = "overlays/cpu with components"
KUBERNETES = ("1.33", "1.37")
VARIABLE = re.compile(r"\$\{(\w+)(?::[-+]([^}]*))?\}")
# Variables whose line in .env.example shows an example, not the default.
EXAMPLES = {"TOKENS_FOLDER", "TLS_FOLDER", "CLIENT_CERTIFICATES", "GRPC_INSECURE", "GRAFANA_PASSWORD"}


def compose(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


# --- images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_a_dockerfile_passes_hadolint_and_keeps_the_projects_rules(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, dockerfile], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "# syntax" not in text, "the build would download a frontend"
    assert text.count("ARG PYTHON_IMAGE=python:3.13-slim") == 1 and text.count("FROM ${") == 2
    last = text.rsplit("FROM ${PYTHON_IMAGE}", 1)[1]
    assert re.search(r"^USER \d+:\d+$", last, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["(cnn-\w+"|python", "-m", "edge")\]$', last, re.MULTILINE), "no shell"
    assert re.search(r"^HEALTHCHECK (NONE|.*CMD \[)", last, re.MULTILINE)
    for label in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert f"org.opencontainers.image.{label}=" in last
    installs = re.findall(r"pip .*?install (.*)", text)
    assert all("--require-hashes" in line or "wheels/*.whl" in line for line in installs)


def test_the_training_image_keeps_of_the_service_what_the_job_imports(tmp_path: Path) -> None:
    """The Dockerfile's own commands prune a copy, from which the whole job is then imported, without gRPC."""
    for package in ("service", "training"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    prunes = re.findall(r"&& (find .*?)(?: \\)?$", (DEPLOY / "docker/training.Dockerfile").read_text(), re.MULTILINE)
    for prune in prunes:
        command = prune.replace("/opt/app/lib/python*/site-packages", str(tmp_path))
        subprocess.run(["/bin/sh", "-c", command], check=True)
    kept = {"__init__.py", "pictures", "models", "core", "pb"}
    assert len(prunes) == 2 and {path.name for path in (tmp_path / "service").iterdir()} == kept
    assert {path.name for path in (tmp_path / "service/models").iterdir()} == {"__init__.py", "repository"}
    code = (
        "import sys; sys.modules['grpc'] = sys.modules['structlog'] = None;"
        f"sys.path.insert(0, {str(tmp_path)!r}); import service, training.pipeline, training.summary;"
        "print(service.__path__, training.__path__)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"['{tmp_path}/service'] ['{tmp_path}/training']"


def pinned(lock: Path) -> dict[str, str]:
    """Version by package. A package with several versions has the one for the newest Python last."""
    return dict(re.findall(r"^([a-z0-9.-]+)==([^ ]+)", lock.read_text(), re.MULTILINE))


def test_images_pin_the_tested_versions_and_contain_no_package_of_the_other_half() -> None:
    tested = pinned(DEPLOY / "locks/dev.txt")
    for name in ("build", "service-cpu", "service-gpu", "training"):
        lock = DEPLOY / f"locks/{name}.txt"
        packages = pinned(lock)
        # The development environment has only those of NVIDIA's libraries that PyTorch requires.
        differing = {package for package, found in packages.items() if tested.get(package, found) != found} - {
            package for package in packages if package.startswith("nvidia-")
        }
        assert differing == set(), name
        entries = re.findall(r"^[a-z0-9].*?(?=^[a-z0-9]|\Z)", lock.read_text(), re.MULTILINE | re.DOTALL)
        assert entries and all("--hash=sha256:" in entry for entry in entries)
    service, gpu = pinned(DEPLOY / "locks/service-cpu.txt"), pinned(DEPLOY / "locks/service-gpu.txt")
    assert not {"torch", "onnx", "matplotlib", "setuptools", "onnxruntime-gpu"} & service.keys()
    assert "torch" not in gpu and {"onnxruntime-gpu", "nvidia-cudnn-cu13"} <= gpu.keys()
    assert "grpcio" not in pinned(DEPLOY / "locks/training.txt")


# --- Compose -----------------------------------------------------------------------------------------------------


def test_every_service_is_hardened_bounded_and_pinned() -> None:
    services = {
        name: service
        for path in COMPOSE
        for name, service in compose(path)["services"].items()
        if "image" in service and path.name != "gpu.yml"  # an override of the service
    }
    assert services.keys() == {"training", "service", "edge", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["init"] and service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        bind = {"edge": "GRPC_BIND", "prometheus": "MONITORING_BIND", "grafana": "MONITORING_BIND"}.get(name)
        assert [port.split("}")[0] for port in service.get("ports", [])] == ([f"${{{bind}:-127.0.0.1"] if bind else [])
        default = VARIABLE.fullmatch(service["image"])
        assert default is not None
        if "build" not in service:
            assert re.search(r":v?\d+\.\d+\.\d+$", str(default[2])), f"{name} is not pinned"
        if name != "training":
            assert service["restart"] == "unless-stopped"


def test_stop_grace_periods_exceed_the_longest_shutdown() -> None:
    fields = Settings.model_fields
    longest = sum(float(fields[name].default) for name in ("lame_duck_seconds", "shutdown_timeout_seconds"))
    longest += 1.1 * float(fields["max_connection_age_seconds"].default)
    grace = compose(ROOT / "docker-compose.yml")["services"]["service"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > longest + 5
    edge = compose(ROOT / "docker-compose.yml")["services"]["edge"]
    assert int(edge["stop_grace_period"].removesuffix("s")) > int(edge["environment"]["EDGE_DRAIN_SECONDS"]) + 15


def test_env_example_lists_every_variable_with_its_default() -> None:
    used: dict[str, set[str]] = {}
    for path in COMPOSE:
        code = re.sub(r"^ *#.*", "", path.read_text(), flags=re.MULTILINE)
        for name, default in VARIABLE.findall(code):
            used.setdefault(name, set()).add(default)
    listed = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert listed.keys() - {"COMPOSE_FILE", "COMPOSE_PROFILES"} == used.keys()
    for name in used.keys() - EXAMPLES:
        assert listed[name] in used[name], name


def test_only_settings_that_exist_are_set() -> None:
    texts = [path.read_text() for path in (*COMPOSE, *DOCKERFILES, *DEPLOY.glob("kubernetes/**/*.yaml"))]
    for prefix, kind in (("SERVICE_", Settings), ("TRAINING_", TrainingSettings)):
        environment = {
            name
            for text in texts
            for name in re.findall(rf"^ *(?:ENV )?({prefix}[A-Z_]+)[:=]|name: ({prefix}[A-Z_]+),", text, re.MULTILINE)
            for name in name
            if name
        }
        assert environment and {name.removeprefix(prefix).lower() for name in environment} <= kind.model_fields.keys()
    command = compose(ROOT / "docker-compose.yml")["services"]["training"]["command"]
    jobs = [*(DEPLOY / "kubernetes").glob("*/training.yaml")]
    parts = [part for path in jobs for part in yaml.safe_load_all(path.read_text()) if part["kind"] == "Job"]
    arguments = [part["spec"]["template"]["spec"]["containers"][0]["args"] for part in parts]
    assert len(arguments) == 2
    ours = [words[words.index("training") + 1 :] if "training" in words else words for words in (command, *arguments)]
    flags = {word.split("=")[0] for words in ours for word in words if word.startswith("--")}
    assert {"--skip-if-published", "--model", "--dataset"} == flags
    assert {flag[2:].replace("-", "_") for flag in flags} <= TrainingSettings.model_fields.keys()


OVERRIDE = "services: {service: {environment: {SERVICE_INTRA_OP_THREADS: 2}}}"
JOINED = {  # files as docker compose joins them: by COMPOSE_FILE, or by finding an override file
    "base": {},
    "base, override": {"override": OVERRIDE},
    "base, gpu": {"COMPOSE_FILE": "docker-compose.yml:deploy/compose/gpu.yml"},
    "base, gpu, ignored override": {"COMPOSE_FILE": "docker-compose.yml:deploy/compose/gpu.yml", "override": OVERRIDE},
    "base, gpu, override": {
        "COMPOSE_FILE": "docker-compose.yml:deploy/compose/gpu.yml:compose.override.yaml",
        "override": OVERRIDE,
    },
}


def compose_config(folder: Path, variables: dict[str, str], *flags: str) -> dict[str, Any]:
    """What `docker compose` makes of a copy of the project, with these lines in .env and nothing in the environment."""
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:  # noqa: S607
        pytest.skip("Docker Compose is not installed")
    shutil.copytree(DEPLOY / "compose", folder / "deploy/compose")
    shutil.copy(ROOT / "docker-compose.yml", folder)
    lines = [f"{name}={value}" for name, value in variables.items() if name.isupper()]
    (folder / ".env").write_text("\n".join(lines))
    if "override" in variables:
        (folder / "compose.override.yaml").write_text(variables["override"])
    command = ["docker", "compose", *flags, "config"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = yaml.safe_load(done.stdout)
    return content


def folders(service: dict[str, Any]) -> dict[str, str]:
    """Source on the host by mount point."""
    return {volume["target"]: volume["source"] for volume in service["volumes"] if volume["type"] == "bind"}


@pytest.mark.parametrize("joined", JOINED)
def test_tokens_and_tls_hold_for_every_joined_set_of_files(joined: str, tmp_path: Path) -> None:
    variables = {"TOKENS_FOLDER": "./tokens", "TLS_FOLDER": "tls", "CLIENT_CERTIFICATES": "required"}
    services = compose_config(tmp_path, variables | {"GRPC_BIND": "0.0.0.0"} | JOINED[joined])["services"]  # noqa: S104
    service, edge = services["service"], services["edge"]
    assert service["environment"]["SERVICE_TOKENS_FILE"] == "/run/tokens/tokens"
    assert edge["environment"]["EDGE_TLS_FOLDER"] == "/run/tls"
    assert edge["environment"]["EDGE_CLIENT_CERTIFICATES"] == "required"
    assert edge["environment"]["EDGE_PUBLISHED_ON"] == "0.0.0.0"  # noqa: S104
    assert edge["environment"]["EDGE_TOKENS"]
    # Neither sees what the other needs.
    assert folders(service) == {"/run/tokens": str(tmp_path / "tokens")}
    assert folders(edge) == {"/run/tls": str(tmp_path / "tls"), "/opt/edge": str(tmp_path / "deploy/edge")}
    assert ("SERVICE_INTRA_OP_THREADS" in service["environment"]) == (
        joined in ("base, override", "base, gpu, override")
    )


@pytest.mark.parametrize("joined", JOINED)
def test_only_the_edge_publishes_the_services_port(joined: str, tmp_path: Path) -> None:
    project = compose_config(tmp_path, JOINED[joined], "--profile", "*")
    services = project["services"]
    assert project["networks"]["private"]["internal"] is True
    assert services["service"]["networks"].keys() == {"private"} and "ports" not in services["service"]
    assert {name for name, service in services.items() if "private" in service["networks"]} == {
        "service",
        "edge",
        "prometheus",
    }
    assert services["service"]["environment"]["SERVICE_BEHIND_EDGE"] == "true"
    published = {name: [port["host_ip"] for port in service.get("ports", [])] for name, service in services.items()}
    loopback = ["127.0.0.1"]
    assert published == {"training": [], "service": [], "edge": loopback, "prometheus": loopback, "grafana": loopback}
    if "gpu" in joined:
        service = services["service"]
        assert service["build"]["args"]["RUNTIME"] == "gpu" and service["environment"]["SERVICE_DEVICE"] == "cuda"
        limits = service["deploy"]["resources"]
        assert limits["reservations"]["devices"][0]["capabilities"] == ["gpu"] and limits["limits"]["pids"]


def test_a_folder_that_does_not_exist_is_an_error_of_up_and_an_unset_variable_mounts_nothing(tmp_path: Path) -> None:
    services = compose(ROOT / "docker-compose.yml")["services"]
    for name in ("service", "edge"):
        mounts = [volume for volume in services[name]["volumes"] if isinstance(volume, dict)]
        assert mounts
        for mount in mounts:
            assert mount["bind"] == {"create_host_path": False} and mount["read_only"]
    services = compose_config(tmp_path, {"TOKENS_FOLDER": "", "TLS_FOLDER": ""})["services"]
    assert folders(services["service"]) == {"/run/tokens": "/dev/null"}
    assert folders(services["edge"])["/run/tls"] == "/dev/null"
    assert not services["service"]["environment"]["SERVICE_TOKENS_FILE"]
    assert not services["edge"]["environment"]["EDGE_TLS_FOLDER"]


def test_a_host_that_only_serves_pulls_neither_torch_nor_grafana(tmp_path: Path) -> None:
    assert compose_config(tmp_path / "1", {})["services"].keys() == {"service", "edge"}
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    everything = {"service", "edge", "training", "prometheus", "grafana"}
    assert compose_config(tmp_path / "2", example)["services"].keys() == everything


def test_grafana_has_no_default_password(tmp_path: Path) -> None:
    def grafana(folder: str, **variables: str) -> dict[str, Any]:
        service = compose_config(tmp_path / folder, variables, "--profile", "*")["services"]["grafana"]
        assert service["command"] == ["cfg:default.security.disable_initial_admin_creation=true"]
        names = ("GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION", "GF_SECURITY_ADMIN_PASSWORD")
        return {name.removeprefix("GF_SECURITY_"): service["environment"][name] for name in names}

    assert grafana("1") == {"DISABLE_INITIAL_ADMIN_CREATION": "", "ADMIN_PASSWORD": ""}
    assert grafana("2", GRAFANA_PASSWORD="s3cret") == {  # noqa: S106
        "DISABLE_INITIAL_ADMIN_CREATION": "false",
        "ADMIN_PASSWORD": "s3cret",
    }


# --- Kubernetes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[*OVERLAYS, SECURED])
def manifests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The manifests that `kubectl apply -k` would apply: of each overlay, and of one with every component."""
    if request.param != SECURED:
        return rendered(DEPLOY / "kubernetes" / request.param)
    folder = tmp_path_factory.mktemp("overlay")
    names = {"resources": ["overlays/cpu"], "components": ["components/tls", "components/tokens"]}
    content = {
        kind: [os.path.relpath(DEPLOY / "kubernetes" / name, folder.resolve()) for name in listed]
        for kind, listed in names.items()
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return rendered(folder)


def rendered(folder: Path) -> list[dict[str, Any]]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed (Debian: kubectl)")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_match_the_kubernetes_schemas(manifests: list[dict[str, Any]], version: str) -> None:
    for manifest in manifests:
        if manifest["kind"] != "ServiceMonitor":  # a custom resource of the Prometheus operator: no schema here
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_check_detects_a_misspelt_field(manifests: list[dict[str, Any]]) -> None:
    wrong = next(manifest for manifest in manifests if manifest["kind"] == "Job")
    wrong = wrong | {"spec": wrong["spec"] | {"completionsMode": "Indexed"}}
    with pytest.raises(kubernetes_validate.ValidationError, match="completionsMode"):
        kubernetes_validate.validate(wrong, KUBERNETES[-1], strict=True)


def pods(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [manifest["spec"]["template"]["spec"] for manifest in manifests if "template" in manifest.get("spec", {})]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of a pod, its sidecars included."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}


def test_every_pod_is_hardened_and_bounded(manifests: list[dict[str, Any]]) -> None:
    assert pods(manifests)
    for pod in pods(manifests):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in containers(pod):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and context["capabilities"] == {"drop": ["ALL"]}
            assert context["allowPrivilegeEscalation"] is False
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert not container["image"].endswith(":latest") and ":" in container["image"]
        for volume in pod["volumes"]:
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), volume["name"]
        mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_selectors_claims_and_metrics_refer_to_existing_objects(manifests: list[dict[str, Any]]) -> None:
    labels = [
        manifest["spec"]["template"]["metadata"]["labels"]
        for manifest in manifests
        if manifest["kind"] in ("Deployment", "Job")
    ]
    for manifest in manifests:
        spec = manifest.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if selector and manifest["kind"] != "ServiceMonitor":
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= found.items() for found in labels), manifest["kind"]
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "simplecnn"
    claims = {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "PersistentVolumeClaim"}
    used = {
        volume.get("persistentVolumeClaim", {}).get("claimName") for pod in pods(manifests) for volume in pod["volumes"]
    }
    assert not claims or used - {None} == claims
    kinds = {manifest["kind"]: manifest for manifest in manifests}
    if scaler := kinds.get("HorizontalPodAutoscaler"):
        metric = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
        adapter = yaml.safe_load((DEPLOY / "kubernetes/prometheus-adapter.yaml").read_text())
        assert metric == adapter["rules"]["custom"][0]["name"]["as"]
        assert scaler["spec"]["scaleTargetRef"]["name"] == kinds["Deployment"]["metadata"]["name"]
        assert "replicas" not in kinds["Deployment"]["spec"], "the autoscaler sets the number"


@pytest.fixture
def serving(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    """The specification of the pod that serves."""
    found = [manifest["spec"]["template"]["spec"] for manifest in manifests if manifest["kind"] == "Deployment"]
    if not found:
        pytest.skip("this overlay only trains")
    return dict(found[0])


def test_a_pod_serves_the_native_server_on_loopback_through_the_edge(
    manifests: list[dict[str, Any]], serving: dict[str, Any]
) -> None:
    (service,), (edge,) = serving["initContainers"], serving["containers"]
    assert (service["name"], edge["name"]) == ("service", "edge")
    settings = environment(service)
    assert settings["SERVICE_HOST"] == "127.0.0.1" and settings["SERVICE_BEHIND_EDGE"] == "true"
    assert "SERVICE_GRPC_SERVER" not in settings, "auto takes the native one"
    assert environment(edge)["EDGE_UPSTREAM"] == f"127.0.0.1:{settings['SERVICE_GRPC_PORT']}"
    listening = [int(settings["SERVICE_GRPC_PORT"]), Settings.model_fields["metrics_port"].default]
    listening += [EdgeSettings.port, EdgeSettings.operators_port, EdgeSettings.admin_port]
    assert len(set(listening)) == len(listening), "the containers of a pod share one address"
    assert {name.removeprefix("SERVICE_").lower() for name in settings} <= Settings.model_fields.keys()
    assert {name.removeprefix("EDGE_").lower() for name in environment(edge)} <= {
        field.name for field in dataclasses.fields(EdgeSettings)
    }
    ports = [port["containerPort"] for container in (service, edge) for port in container["ports"]]
    assert sorted(ports) == [
        EdgeSettings.port,
        Settings.model_fields["metrics_port"].default,
        EdgeSettings.operators_port,
    ]
    (published,) = [manifest["spec"] for manifest in manifests if manifest["kind"] == "Service"]
    assert sorted(port["targetPort"] for port in published["ports"]) == sorted(ports)
    (policy,) = [
        manifest["spec"]
        for manifest in manifests
        if manifest["kind"] == "NetworkPolicy" and manifest["metadata"]["name"] == "service"
    ]
    assert sorted(port["port"] for rule in policy["ingress"] for port in rule["ports"]) == sorted(ports)


def test_probes_reach_a_pod_from_outside_also_with_tls(serving: dict[str, Any]) -> None:
    """The kubelet asks the pod's address, and its gRPC probe speaks no TLS: so HTTP, on the ports for operators."""
    ports = {"service": Settings.model_fields["metrics_port"].default, "edge": EdgeSettings.operators_port}
    for container in containers(serving):
        for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            assert container[probe]["httpGet"] == {"port": ports[container["name"]], "path": path}


def test_a_pod_drains_at_the_edge_while_the_service_serves_on(serving: dict[str, Any]) -> None:
    (service,), (edge,) = serving["initContainers"], serving["containers"]
    assert service["restartPolicy"] == "Always", "a sidecar: Kubernetes stops it after the edge"
    assert float(environment(service)["SERVICE_LAME_DUCK_SECONDS"]) == 0
    removed = edge["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert removed >= 5, "endpoints are removed while the pod is told to stop"
    drained = float(environment(edge).get("EDGE_DRAIN_SECONDS", EdgeSettings.drain_seconds)) + EXIT_SECONDS
    stopped = float(Settings.model_fields["shutdown_timeout_seconds"].default)
    assert serving["terminationGracePeriodSeconds"] > removed + drained + stopped + 5


def test_secrets_are_mounted_only_where_they_are_read_and_a_missing_one_is_no_open_port(
    manifests: list[dict[str, Any]], serving: dict[str, Any]
) -> None:
    secrets = {volume["name"]: volume["secret"] for volume in serving["volumes"] if "secret" in volume}
    mounts = {
        (container["name"], mount["name"], mount["mountPath"])
        for container in containers(serving)
        for mount in container["volumeMounts"]
        if mount["name"] in secrets
    }
    (service,), (edge,) = serving["initContainers"], serving["containers"]
    (published,) = [manifest["spec"] for manifest in manifests if manifest["kind"] == "Service"]
    if not secrets:
        assert "EDGE_TLS_FOLDER" not in environment(edge) and "SERVICE_TOKENS_FILE" not in environment(service)
        assert published["ports"][0]["appProtocol"] == "kubernetes.io/h2c"
        return
    assert mounts == {("edge", "tls", "/run/tls"), ("service", "tokens", "/run/tokens")}
    assert environment(edge)["EDGE_TLS_FOLDER"] == "/run/tls" and environment(edge)["EDGE_TOKENS"]
    assert environment(service)["SERVICE_TOKENS_FILE"] == "/run/tokens/tokens"
    for secret in secrets.values():
        assert not secret.get("optional"), "the pod waits for it"
        assert secret["defaultMode"] == 0o440, "readable by fsGroup alone"
    assert "appProtocol" not in published["ports"][0], "the port speaks TLS"


def test_prometheus_scrapes_both_containers_under_the_jobs_that_the_rules_name(manifests: list[dict[str, Any]]) -> None:
    monitors = [manifest["spec"] for manifest in manifests if manifest["kind"] == "ServiceMonitor"]
    services = [manifest["spec"] for manifest in manifests if manifest["kind"] == "Service"]
    for monitor in monitors:
        ports = {port["name"]: port["port"] for port in services[0]["ports"]}
        scraped = {
            endpoint["relabelings"][0]["replacement"]: ports[endpoint["port"]] for endpoint in monitor["endpoints"]
        }
        assert scraped == {"service": 8002, "edge": EdgeSettings.operators_port}
        configured = yaml.safe_load((DEPLOY / "monitoring/prometheus/prometheus.yml").read_text())["scrape_configs"]
        assert scraped.keys() < {job["job_name"] for job in configured}


def test_the_gateways_route_leads_to_the_edge(manifests: list[dict[str, Any]], serving: dict[str, Any]) -> None:
    route, backend = yaml.safe_load_all((DEPLOY / "kubernetes/grpc-route.yaml").read_text())
    (reference,) = route["spec"]["rules"][0]["backendRefs"]
    (port,) = backend["spec"]["ports"]
    assert reference == {"name": backend["metadata"]["name"], "port": port["port"]}
    assert port["targetPort"] == serving["containers"][0]["ports"][0]["containerPort"] == EdgeSettings.port
    (headless,) = [manifest for manifest in manifests if manifest["kind"] == "Service"]
    assert backend["spec"]["selector"].items() <= headless["spec"]["selector"].items()
    assert headless["spec"]["clusterIP"] == "None" and "clusterIP" not in backend["spec"]
    for version in KUBERNETES:
        kubernetes_validate.validate(backend, version, strict=True)


def test_the_kserve_runtime_and_inference_service_match() -> None:
    runtime = yaml.safe_load((DEPLOY / "kubernetes/kserve/runtime.yaml").read_text())
    service = yaml.safe_load((DEPLOY / "kubernetes/kserve/inference-service.yaml").read_text())
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"] == ["grpc-v2"]
    known = {(offer["name"], offer["version"]) for offer in runtime["spec"]["supportedModelFormats"]}
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in known


def test_the_kserve_runtime_has_one_port_which_the_aio_server_bounds() -> None:
    (container,) = yaml.safe_load((DEPLOY / "kubernetes/kserve/runtime.yaml").read_text())["spec"]["containers"]
    assert container["name"] == "kserve-container"
    port = Settings.model_fields["grpc_port"].default
    assert container["ports"] == [{"name": "h2c", "containerPort": port, "protocol": "TCP"}]
    assert container["args"] == ["--model-repository=/mnt/models", "--grpc-server=aio", "--insecure"]
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["grpc"] == {"port": port, "service": "liveness"}
    assert container["readinessProbe"]["grpc"] == {"port": port}

"""Rules, alerts and dashboards: each names what exists, and a real Prometheus finds something for each."""

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml

from service.pb import classifier_pb2
from service.pb.classifier_pb2_grpc import ImageClassifierStub
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from service.telemetry.collector import metrics_registry
from service.telemetry.gpu import GpuCollector
from service.telemetry.workers import WorkersCollector
from service.transport.http.monitoring import MonitoringServer
from tests.support.edge import EdgeProcess, edge_process
from tests.support.gpu import FakeNvml
from tests.support.local_service import local_service
from tests.support.models import copy_repository
from tests.support.paths import ROOT
from tests.support.processes import free_port, service_process
from tests.support.requests import infer_request
from tests.support.waiting import wait_until

DEPLOY = ROOT / "deploy"
MONITORING = DEPLOY / "monitoring"
RULES = MONITORING / "prometheus" / "rules.yml"
ALERTS = MONITORING / "prometheus" / "alerts.yml"
BOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
MODEL = "mnist-simplecnn"
# What Prometheus itself and the client library call theirs.
FOREIGN = {"up", "ALERTS"}
# The panels that Grafana itself has, of those that the dashboards use.
GRAFANA_PANELS = {"stat", "timeseries", "heatmap", "table", "bargauge"}


def promtool(*arguments: str) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def queries(board: Path) -> list[tuple[str, str]]:
    """(panel, expression) of every query of a dashboard."""
    panels = json.loads(board.read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]


def test_prometheus_takes_its_configuration() -> None:
    promtool("check", "config", str(MONITORING / "prometheus" / "prometheus.yml"))


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", "tests/deploy/prometheus_rules.yml")


def test_no_alert_is_left_out_of_that_and_each_says_what_to_do() -> None:
    cases = [
        (name, bool(found))
        for test in yaml.safe_load((ROOT / "tests/deploy/prometheus_rules.yml").read_text())["tests"]
        for case in (*test.get("promql_expr_test", []), *test.get("alert_rule_test", []))
        for name in re.findall(r'alertname="(\w+)"', case.get("expr", "")) or [case.get("alertname")]
        for found in [case.get("exp_samples") or case.get("exp_alerts")]
    ]
    for alert in rules(ALERTS):
        name = alert["alert"]
        assert (name, True) in cases and (name, False) in cases, name
        assert len(alert["annotations"]["runbook"]) > 40 and alert["annotations"]["summary"], name
        assert alert["labels"]["severity"] in ("info", "warning", "critical"), name


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]|\b(by|on|group_left|group_right|without)\s*\([^)]*\)', "", expression)
    bare = re.sub(r"\{[^}]*\}", "{", bare)
    return {name for name in re.findall(r"[a-zA-Z_:][\w:]*", bare) if "_" in name or ":" in name or name in FOREIGN} - {
        "histogram_quantile",
        "min_over_time",
        "group_left",
    }


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tls.crt, for localhost and one day, and tls.key."""
    folder = tmp_path_factory.mktemp("tls")
    files = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command = ["/usr/bin/openssl", "req", "-x509", "-days", "1", *key, *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def edge_channel(edge: EdgeProcess, certificate: Path) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials((certificate / "tls.crt").read_bytes())
    return grpc.secure_channel(edge.address, credentials)


def metrics_of(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_every_metric_that_is_asked_for_exists(
    published: Path, nvml: FakeNvml, tmp_path: Path, certificate: Path
) -> None:
    with (
        local_service(published, "aio") as service,
        edge_process(service.address, tmp_path, tls_folder=str(certificate)) as edge,
        edge_channel(edge, certificate) as channel,
    ):
        request = infer_request(MODEL, images=np.zeros((1, 28, 28, 1), np.uint8))
        GRPCInferenceServiceStub(channel).ModelInfer(request, wait_for_ready=True, timeout=10)
        text = metrics_of(service.server.metrics_url)
        text += metrics_of(f"http://127.0.0.1:{edge.operators_port}/metrics")
    gpus = {family.name for family in GpuCollector(["cuda:0"]).collect()}
    workers = {sample.name for family in WorkersCollector(list).own() for sample in family.samples}
    exposed = {re.split(r"[{ ]", line)[0] for line in text.splitlines() if line and not line.startswith("#")}
    exposed |= {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    recorded = {rule["record"] for rule in rules(RULES)}
    asked = {
        name
        for expression in (
            *[rule["expr"] for rule in (*rules(RULES), *rules(ALERTS))],
            *[expression for board in BOARDS for _, expression in queries(board)],
        )
        for name in names_in(expression)
    }
    assert len(asked) > 30
    assert asked - exposed - gpus - workers - recorded - FOREIGN == set()
    assert recorded <= asked, "rules that nobody reads"
    adapter = (DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text()
    assert set(re.findall(r"inference_queue_duration_seconds_\w+", adapter)) <= exposed


def test_the_dashboards_are_mounted_where_the_provider_looks() -> None:
    assert [path.name for path in BOARDS] == ["models.json", "serving.json"]
    provisioned = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/simplecnn.yml").read_text())
    volumes = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]["volumes"]
    mounted = dict(volume.split(":")[:2] for volume in volumes)
    assert mounted["./deploy/monitoring/grafana/dashboards"] == provisioned["providers"][0]["options"]["path"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_every_panel_has_a_place_a_description_and_the_provisioned_data_source(board: Path) -> None:
    provisioned = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())
    source = {key: provisioned["datasources"][0][key] for key in ("type", "uid")}
    content = json.loads(board.read_text())
    assert content["uid"] == f"simplecnn-{board.stem}"
    variables = {variable["name"]: variable["datasource"] for variable in content["templating"]["list"]}
    assert variables == {"model": source}
    panels = content["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) and all(panel["id"] > 0 for panel in panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        title = panel["title"]
        x, y, width, height = (panel["gridPos"][key] for key in "xywh")
        cells = {(x + column, y + row) for column in range(width) for row in range(height)}
        assert x + width <= 24 and not cells & taken, f"{title} overlaps another panel or leaves the grid"
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in GRAFANA_PANELS and panel["description"] and panel["targets"], title
        assert [target["refId"] for target in panel["targets"]] == list("ABCD"[: len(panel["targets"])]), title
        assert all(part["datasource"] == source for part in (panel, *panel["targets"])), title
        named = {name for target in panel["targets"] for name in re.findall(r"\$(\w+)", target["expr"])}
        assert named <= {"model", "__rate_interval"}, title


# --- against a real Prometheus -----------------------------------------------------------------------------------


class Prometheus:
    """A real one, with our rules, that scrapes these addresses of each job every half second."""

    def __init__(self, folder: Path, jobs: dict[str, list[str]]) -> None:
        program = shutil.which("prometheus")
        if program is None:
            pytest.skip("prometheus is not installed (Debian: prometheus)")
        for path in (RULES, ALERTS):
            every = re.sub(r"interval: \d+s", "interval: 1s", path.read_text())
            (folder / path.name).write_text(every)
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
            "rule_files": [RULES.name, ALERTS.name],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": addresses}]} for job, addresses in jobs.items()
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [
                program,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            stderr=self.log,
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an instant query finds."""
        parameters = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{parameters}", timeout=10) as response:
            result: list[dict[str, Any]] = json.load(response)["data"]["result"]
            return result

    def answers(self, expression: str) -> bool:
        """Whether it answers, and with something."""
        try:
            return bool(self.query(expression))
        except OSError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


def calls(edge: EdgeProcess, certificate: Path, images: np.ndarray, stop: threading.Event) -> None:
    """Calls through the edge: of several sizes, some that are wrong, and some with a picture."""
    with edge_channel(edge, certificate) as channel:
        stub = GRPCInferenceServiceStub(channel)
        number = 0
        while not stop.is_set():
            number += 1
            name = "unknown" if number % 10 == 0 else MODEL
            size = (1, 2, 8)[number % 3]
            first = number * 7 % 900
            try:
                stub.ModelInfer(infer_request(name, images=images[first : first + size]), timeout=10)
                if number % 10 == 1:
                    raw = classifier_pb2.RawImage(width=28, height=28, channels=1, pixels=images[first].tobytes())
                    request = classifier_pb2.ClassifyRequest(model_name=name, images=[classifier_pb2.Image(raw=raw)])
                    ImageClassifierStub(channel).Classify(request, timeout=10)
            except grpc.RpcError:
                assert name == "unknown"
            stop.wait(0.005)


@pytest.fixture(scope="module")
def watched(
    published: Path,
    tmp_path_factory: pytest.TempPathFactory,
    test_images: tuple[np.ndarray, np.ndarray],
    certificate: Path,
) -> Iterator[Prometheus]:
    """A Prometheus that has scraped an edge and a service under load, with a refused version and a pretended GPU."""
    folder = tmp_path_factory.mktemp("prometheus")
    repository = copy_repository(published, folder / "models")
    shutil.copytree(repository / MODEL / "1", repository / MODEL / "2")
    (repository / MODEL / "2" / "model.onnx").write_bytes(b"half a file")
    with (
        pytest.MonkeyPatch.context() as patch,
        service_process(repository, ready=False) as service,
        edge_process(service.address, folder, tls_folder=str(certificate)) as edge,
    ):
        nvml = FakeNvml()
        for name in [name for name in dir(nvml) if name.startswith("nvml")]:
            patch.setattr(f"pynvml.{name}", getattr(nvml, name))
        gpus = MonitoringServer("127.0.0.1", 0, metrics_registry(GpuCollector(["cuda:0"])), lambda: "")
        addresses = [urllib.parse.urlsplit(url).netloc for url in (service.metrics, gpus.url)]
        prometheus = Prometheus(folder, {"service": addresses, "edge": [f"127.0.0.1:{edge.operators_port}"]})
        stop = threading.Event()
        load = [threading.Thread(target=calls, args=(edge, certificate, test_images[0], stop)) for _ in range(3)]
        try:
            for thread in load:
                thread.start()
            wait_until(lambda: prometheus.answers("model_version:inference_predictions:drift1h"), "rules are evaluated")
            time.sleep(6)  # of load, for what is taken over ten seconds
            yield prometheus
        finally:
            stop.set()
            for thread in load:
                thread.join()
            prometheus.stop()
            gpus.close()


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_every_panel_shows_something(watched: Prometheus, board: Path) -> None:
    empty = {}
    for title, expression in queries(board):
        asked = expression.replace("$__rate_interval", "10s").replace("$model", ".+")
        found = watched.query(asked)
        if not any(sample["value"][1] != "NaN" for sample in found):
            empty[title] = asked
    assert empty == {}


def test_what_the_rules_record_is_right(watched: Prometheus) -> None:
    (failures,) = watched.query("model:inference_failures:ratio_rate5m")
    assert (failures["metric"]["model"], failures["value"][1]) == (MODEL, "0"), "unknown models are callers' mistakes"
    (unknown,) = watched.query('sum(inference_requests_total{code="NOT_FOUND"})')
    assert float(unknown["value"][1]) > 10
    (drift,) = watched.query("model_version:inference_predictions:drift1h")
    assert float(drift["value"][1]) < 0.1, "these are the images of its own test set"
    (sure,) = watched.query("inference_prediction_confidence_sum / inference_prediction_confidence_count")
    assert 0.8 < float(sure["value"][1]) <= 1
    (p99,) = watched.query("model:inference_request_duration_seconds:p99_5m")
    assert 0 < float(p99["value"][1]) < 1
    (rate,) = watched.query('sum(rate(inference_requests_total{model!=""}[1m]))')
    assert float(rate["value"][1]) > 10
    for record in {rule["record"] for rule in rules(RULES)}:
        assert watched.query(record), record


def test_the_autoscalers_metric_can_be_asked_for(watched: Prometheus) -> None:
    rule = yaml.safe_load((DEPLOY / "kubernetes/prometheus-adapter.yaml").read_text())["rules"]["custom"][0]
    asked = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'job="service"').replace("<<.GroupBy>>", "instance")
    (pod,) = watched.query(asked)
    assert 0 < float(pod["value"][1]) < 0.1


def test_a_refused_version_shows_up_as_an_alert(watched: Prometheus) -> None:
    alerts = {sample["metric"]["alertname"] for sample in watched.query("ALERTS")}
    assert "ModelRefused" in alerts and "ModelNotReady" not in alerts, "the version before goes on serving"


def test_the_edge_counts_calls_by_their_grpc_status(watched: Prometheus) -> None:
    found = watched.query("sum by (grpc_status) (envoy_cluster_grpc)")
    counts = {sample["metric"]["grpc_status"]: float(sample["value"][1]) for sample in found}
    assert counts.keys() == {"0", "5"} and min(counts.values()) > 10, "OK, and NOT_FOUND for the unknown model"


def test_the_edge_shows_a_certificate_that_expires_as_an_alert_and_its_replica_as_ready(watched: Prometheus) -> None:
    alerts = {sample["metric"]["alertname"] for sample in watched.query('ALERTS{alertname=~"Edge.*"}')}
    assert alerts == {"EdgeCertificateExpires"}
    (healthy,) = watched.query('envoy_cluster_membership_healthy{envoy_cluster_name="service"}')
    assert (healthy["metric"]["job"], healthy["value"][1]) == ("edge", "1")

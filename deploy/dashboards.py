"""The two Grafana dashboards, written to deploy/monitoring/grafana/dashboards: `make dashboards`.

Serving is for whoever is on call: is it well, where does the time go, what waits. Models is for whoever trained them:
what is served, how good it was, and whether what it says now is what it said of its test set.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import bargauge, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, Row, ThresholdsConfig
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    GraphDrawStyle,
    GraphGradientMode,
    HeatmapCellLayout,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).parent / "monitoring" / "grafana" / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")  # as provisioned
MODEL = 'model=~"$model"'
RATE = "[$__rate_interval]"
HALF, THIRD, SIXTH = 12, 8, 4  # of the 24 columns

Query = tuple[str, str]  # an expression, and what to call its series


def lines(title: str, text: str, unit: str, *queries: Query, span: int = HALF, stacked: bool = False) -> Any:
    """A chart over time."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .unit(unit)
        .min(0)
        .span(span)
        .height(8)
        .datasource(SOURCE)
        .draw_style(GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(30 if stacked else 5)
        .gradient_mode(GraphGradientMode.NONE)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common_builders.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(StackingMode.NORMAL))
    for index, (expression, legend) in enumerate(queries):
        panel.with_target(target(expression, legend, index))
    return panel


def number(
    title: str, text: str, unit: str, expression: str, *, bad: float | None = None, good: float | None = None
) -> Any:
    """One value: red from `bad` up, or below `good`."""
    steps = [Threshold(None, "text")]
    if bad is not None:
        steps = [Threshold(None, "green"), Threshold(bad, "red")]
    elif good is not None:
        steps = [Threshold(None, "red"), Threshold(good, "green")]
    return (
        stat.Panel()
        .title(title)
        .description(text)
        .unit(unit)
        .span(SIXTH)
        .height(4)
        .datasource(SOURCE)
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .with_target(target(expression, "").instant())
    )


def bars(title: str, text: str, unit: str, query: Query, *, span: int = HALF) -> Any:
    """The values of now, side by side."""
    return (
        bargauge.Panel()
        .title(title)
        .description(text)
        .unit(unit)
        .span(span)
        .height(8)
        .datasource(SOURCE)
        .with_target(target(*query).instant())
    )


def spread(title: str, text: str, unit: str, histogram: str, *, span: int = HALF) -> Any:
    """How a histogram's values are spread, over time."""
    query = target(f"sum by (le) (increase({histogram}_bucket{{{MODEL}}}{RATE}))", "{{le}}")
    return (
        heatmap.Panel()
        .title(title)
        .description(text)
        .span(span)
        .height(8)
        .datasource(SOURCE)
        .rows_frame(heatmap.RowsHeatmapOptions().layout(HeatmapCellLayout.LE))
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .with_target(query.format(PromQueryFormat.HEATMAP))
    )


def listing(title: str, text: str, *columns: Query, span: int = 24) -> Any:
    """A table of series that share labels: a value a column."""
    panel = table.Panel().title(title).description(text).span(span).height(8).datasource(SOURCE)
    for index, (expression, legend) in enumerate(columns):
        panel.with_target(target(expression, legend, index).instant().format(PromQueryFormat.TABLE))
    if len(columns) == 1:
        names = {"Value": columns[0][1]}
    else:
        names = {f"Value #{reference(index)}": legend for index, (_, legend) in enumerate(columns)}
        panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    tidy = {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": names}
    return panel.with_transformation(DataTransformerConfig(id_val="organize", options=tidy))


def reference(index: int) -> str:
    """What Grafana calls a query of a panel: A, B and so on."""
    return chr(ord("A") + index)


def target(expression: str, legend: str, index: int = 0) -> prometheus.Dataquery:
    """A query to Prometheus."""
    return (
        prometheus.Dataquery()
        .expr(expression)
        .legend_format(legend)
        .ref_id(reference(index))
        .datasource(SOURCE)
        .range()
    )


def quantiles(metric: str) -> list[Query]:
    """The median and the tails."""
    return [
        (f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{{MODEL}}}{RATE})))", name)
        for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    ]


def mean(metric: str) -> str:
    """Mean of a histogram's values."""
    return f"sum(rate({metric}_sum{{{MODEL}}}{RATE})) / sum(rate({metric}_count{{{MODEL}}}{RATE}))"


def dashboard(uid: str, title: str, text: str, rows: Mapping[str, Sequence[Any]]) -> Dashboard:
    """Panels in rows, over some or all models."""
    models = (
        QueryVariable("model")
        .label("Model")
        .query("label_values(inference_model_ready, model)")
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".+")
    )
    board = (
        Dashboard(title)
        .uid(uid)
        .description(text)
        .tags(["simplecnn"])
        .refresh("10s")
        .time("now-15m", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(models)
    )
    for name, panels in rows.items():
        board.with_row(Row(name))
        for panel in panels:
            board.with_panel(panel)
    return board


# --- Serving: for whoever is on call -----------------------------------------------------------------------------

REQUESTS, ROWS = "inference_requests_total", "inference_rows_total"
DURATION = "inference_request_duration_seconds"
QUEUE, ENGINE = "inference_queue_duration_seconds", "inference_compute_duration_seconds"
OBJECTIVE = "objective:inference_request_duration_seconds:p99"


def now() -> list[Any]:
    """Whether it is well."""
    failures = f"max(model:inference_failures:ratio_rate5m{{{MODEL}}})"
    p99 = f"max(model:inference_request_duration_seconds:p99_5m{{{MODEL}}})"
    firing = 'count(ALERTS{alertstate="firing"}) or vector(0)'
    return [
        number("Calls", "Answered a second, whatever the status.", "reqps", f"sum(rate({REQUESTS}{RATE}))"),
        number("Images", "Rows computed a second.", "ops", f"sum(rate({ROWS}{{{MODEL}}}{RATE}))"),
        number(
            "Failures",
            "Of the calls that were in order, those without an answer, in five minutes.",
            "percentunit",
            failures,
            bad=0.01,
        ),
        number("p99", "One call in 100 takes longer, in five minutes.", "s", p99),
        number("Replicas that answer", "Whose metrics arrive.", "none", 'sum(up{job="service"})', good=1),
        number("Alerts", "That fire now.", "none", firing, bad=1),
    ]


def calls() -> list[Any]:
    """What comes in, and where its time goes."""
    rest = f"({mean(DURATION)}) - ({mean(QUEUE)}) - ({mean(ENGINE)})"
    times = lines(
        "Time of a call",
        "From arrival to answer, of answered calls, and the objective of the 99th percentile (rules.yml).",
        "s",
        *quantiles(DURATION),
        (OBJECTIVE, "objective of p99"),
    )
    times.override_by_name(
        "objective of p99",
        [
            DynamicConfigValue("color", {"mode": "fixed", "fixedColor": "red"}),
            DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [10, 10]}),
        ],
    )
    return [
        lines(
            "Requests by code",
            "Answered a second, by gRPC status; those that reached no model included.",
            "reqps",
            (f"sum by (code) (rate({REQUESTS}{RATE}))", "{{code}}"),
            stacked=True,
        ),
        times,
        lines(
            "Where the time goes",
            "Means of a call's stages, and the rest: reading, writing, waiting for the answer's turn.",
            "s",
            (mean(QUEUE), "in the queue"),
            (mean(ENGINE), "in the engine"),
            (rest, "the rest"),
            stacked=True,
        ),
        lines(
            "Tails of the stages",
            "99th percentiles; they do not add up.",
            "s",
            (quantiles(QUEUE)[-1][0], "in the queue"),
            (quantiles(ENGINE)[-1][0], "in the engine"),
        ),
    ]


def batches() -> list[Any]:
    """How they form, what waits, and what comes of it."""
    answered = f'{REQUESTS}{{{MODEL},code="OK"}}{RATE}'
    return [
        spread("Rows a batch", "How large batches are.", "none", "inference_batch_rows"),
        lines(
            "Why batches closed",
            "idle: an engine was free and took what waited; full: max_batch_size; others: as config.pbtxt asks.",
            "ops",
            (f"sum by (closed_by) (rate(inference_batches_total{{{MODEL}}}{RATE}))", "{{closed_by}}"),
            stacked=True,
        ),
        lines(
            "Queue",
            "Rows that wait, of all replicas, and how many may before calls are refused.",
            "none",
            (f"sum by (model) (inference_queue_rows{{{MODEL}}})", "{{model}}"),
            (f"sum by (model) (inference_queue_limit_rows{{{MODEL}}})", "{{model}}: limit"),
        ),
        lines(
            "Throughput",
            "Images a second, and rows computed only to fill batches up.",
            "ops",
            (f"sum by (model) (rate({ROWS}{{{MODEL}}}{RATE}))", "{{model}}"),
            (f"sum by (model) (rate(inference_padding_rows_total{{{MODEL}}}{RATE}))", "{{model}}: padding"),
        ),
        lines(
            "Versions in service",
            "Answered calls a second, by version: a rollout, a canary.",
            "reqps",
            (f"sum by (model, version) (rate({answered}))", "{{model}} {{version}}"),
            stacked=True,
        ),
        lines(
            "Spread over replicas",
            "Answered calls a second, by replica.",
            "reqps",
            (f"sum by (instance) (rate({answered}))", "{{instance}}"),
            stacked=True,
        ),
    ]


def machines() -> list[Any]:
    """What it takes."""
    job = '{job="service"}'
    processor = (f"rate(process_cpu_seconds_total{job}{RATE})", "{{instance}}")
    memory = (f"process_resident_memory_bytes{job}", "{{instance}}")
    age = (f"time() - process_start_time_seconds{job}", "{{instance}}")
    return [
        lines("Processor", "Cores in use.", "none", processor, span=THIRD),
        lines("Memory", "Resident.", "bytes", memory, span=THIRD),
        lines("Age", "Time since each replica's start; it falls to 0 when one starts anew.", "s", age, span=THIRD),
        lines(
            "GPU memory",
            "In use, by anyone, and all there is.",
            "bytes",
            ("gpu_memory_used_bytes", "{{instance}} {{device}}"),
            ("gpu_memory_total_bytes", "{{instance}} {{device}}: all"),
        ),
        lines(
            "GPU utilisation",
            "Share of the time in which it computed.",
            "percentunit",
            ("gpu_utilization_ratio", "{{instance}} {{device}}"),
        ),
    ]


# --- Models: for whoever trained them ----------------------------------------------------------------------------

VERSION = "{{model}} {{version}}"


def of_version(metric: str, *labels: str) -> str:
    """A gauge that all replicas have alike."""
    return f"max by ({', '.join(('model', 'version', *labels))}) ({metric}{{{MODEL}}})"


def served() -> list[Any]:
    """What is served, and what is not."""
    accuracy, seconds = of_version("inference_model_test_accuracy"), of_version("inference_model_load_seconds")
    return [
        listing(
            "Versions",
            "Accuracy is the manifest's, on images that training never saw; verified: hash and golden answers hold.",
            (of_version("inference_model_info", "device", "provider", "verified", "sha256"), "served"),
            (accuracy, "test accuracy"),
            (seconds, "seconds to load"),
            (of_version("inference_batch_invariance"), "alone or in company"),
        ),
        lines(
            "Ready",
            "Replicas on which a version answers.",
            "none",
            (f"sum by (model, version) (inference_model_ready{{{MODEL}}})", VERSION),
        ),
        listing(
            "Refused",
            "Versions that should answer and do not, and why; empty is well.",
            (of_version("inference_model_refused", "reason"), "refused"),
            span=HALF,
        ),
        bars("Test accuracy", "From the manifest.", "percentunit", (accuracy, VERSION), span=THIRD),
        bars("Time to load", "Golden answers in every batch size included.", "s", (seconds, VERSION), span=THIRD),
        listing(
            "Service",
            "The front and version of each replica.",
            ("max by (instance, front, version) (service_info)", "runs"),
            span=THIRD,
        ),
    ]


def said() -> list[Any]:
    """Whether it still sees what it was tested on."""
    classes, by_version = "inference_predictions_total", "sum by (model, version)"
    confidence = "inference_prediction_confidence"
    shares = (
        f"sum by (model, version, class) (rate({classes}{{{MODEL}}}{RATE}))"
        f" / on (model, version) group_left () {by_version} (rate({classes}{{{MODEL}}}{RATE}))"
    )
    difference = (
        f"model_version_class:inference_predictions:ratio_rate1h{{{MODEL}}}"
        f" - on (model, version, class) {of_version('inference_model_test_predictions_ratio', 'class')}"
    )
    sure = (
        f"{by_version} (rate({confidence}_sum{{{MODEL}}}{RATE}))"
        f" / {by_version} (rate({confidence}_count{{{MODEL}}}{RATE}))"
    )
    return [
        lines(
            "Predictions by class",
            "Share of each class among the answers.",
            "percentunit",
            (shares, f"{VERSION}: {{{{class}}}}"),
            stacked=True,
        ),
        bars(
            "Classes, compared with the test set",
            "Share in the last hour, less that on the test set: above 0 is seen more often now.",
            "percentunit",
            (difference, f"{VERSION}: {{{{class}}}}"),
        ),
        lines(
            "Drift",
            "0: classes are as frequent as on the test set; 1: none of them. PredictionsDrift fires above 0.3.",
            "percentunit",
            (f"model_version:inference_predictions:drift1h{{{MODEL}}}", VERSION),
            span=THIRD,
        ),
        lines(
            "Confidence",
            "Mean of the highest probability, and the same on the test set. Less sure: it sees what it does not know.",
            "percentunit",
            (sure, VERSION),
            (of_version("inference_model_test_confidence"), f"{VERSION}: test set"),
            span=THIRD,
        ),
        spread("How sure it is", "The highest probability.", "percentunit", confidence, span=THIRD),
    ]


BOARDS = (
    dashboard(
        "simplecnn-serving",
        "Serving",
        "Is it well, where does the time go, what waits.",
        {"Now": now(), "Calls": calls(), "Batches and queue": batches(), "Machines": machines()},
    ),
    dashboard(
        "simplecnn-models",
        "Models",
        "What is served, how good it was, and whether it still sees the same.",
        {"What is served": served(), "What it says": said()},
    ),
)


def write(folder: Path = FOLDER) -> None:
    """Write all."""
    folder.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        built = board.build()
        for place, panel in enumerate(built.panels or [], start=1):
            panel.id_val = place
        name = str(built.uid).removeprefix("simplecnn-")
        text = json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True)
        (folder / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    write()

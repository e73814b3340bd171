"""What the network learned: filters, feature maps and the layer table, of a network of any shape.

Not here: how layers are found (networks/hooks.py).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from training.networks.layers import HEADER, LEGEND, LayerSummary, table_rows
from training.report.pictures import data_url, filter_image, grey_image
from training.report.section import CannotDraw, ReportInput

MAX_FILTERS = 64
MAX_FEATURE_MAPS = 16  # of each layer
MAX_LAYERS = 12  # with feature maps


def filters(report: ReportInput) -> Mapping[str, Any]:
    """The filters of the first layer with weights; of a fully connected one, its weights in the shape of the image."""
    layer, weights = next(
        ((layer, weights) for layer in report.layers if (weights := _matrix(layer)) is not None), (None, None)
    )
    if layer is None or weights is None:
        raise CannotDraw("The network has no layer with weights.")
    height, width, channels = report.experiment.dataset.image_shape
    if weights.ndim == 2 and weights.shape[1] == channels * height * width:
        weights = weights.reshape(-1, channels, height, width)
    if weights.ndim != 4:
        raise CannotDraw(f"The weights of the first layer, {layer.description}, are no images.")
    if weights.shape[2:] == (1, 1):
        raise CannotDraw(f"The filters of the first layer, {layer.description}, are single pixels.")
    return {
        "layer": layer,
        "images": [filter_image(weight) for weight in weights[:MAX_FILTERS]],
        "count": len(weights),
        "shape": f"{weights.shape[2]}×{weights.shape[3]}",
        "in_colour": weights.shape[1] == 3,
    }


def feature_maps(report: ReportInput) -> Mapping[str, Any]:
    """The strongest feature maps of each layer that has some, for one test image."""
    drawn = [layer for layer in report.layers if _has_maps(layer)]
    if not drawn:
        raise CannotDraw("No layer of the network has feature maps.")
    chosen = torch.linspace(0, len(drawn) - 1, min(MAX_LAYERS, len(drawn))).round().long().tolist()
    test = report.experiment.dataset.test
    return {
        "image": data_url(test.images[report.example]),
        "label": report.names[test.labels[report.example]],
        "layers": [(drawn[index], _strongest_maps(drawn[index])) for index in chosen],
        "layers_with_maps": len(drawn),
    }


def layers(report: ReportInput) -> Mapping[str, Any]:
    """The layer table."""
    return {"header": HEADER, "rows": table_rows(report.model.body, report.layers), "legend": LEGEND}


def _matrix(layer: LayerSummary) -> Tensor | None:
    """The layer's weights, if they are more than a scale for each channel."""
    weights = getattr(layer.layer, "weight", None)
    return weights.detach() if isinstance(weights, Tensor) and weights.ndim > 1 else None


def _has_maps(layer: LayerSummary) -> bool:
    return layer.output is not None and layer.output.ndim == 4 and layer.output.shape[2:].numel() > 1


def _strongest_maps(layer: LayerSummary) -> list[tuple[int, str]]:
    """(channel, image) of the feature maps with the largest values, by channel."""
    assert layer.output is not None
    maps = layer.output[0].float().nan_to_num()  # (C, H, W)
    strongest = maps.amax((1, 2)).argsort(descending=True)[:MAX_FEATURE_MAPS].sort().values.tolist()
    return [(channel, grey_image(maps[channel])) for channel in strongest]

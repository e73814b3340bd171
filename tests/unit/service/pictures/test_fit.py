"""The record of a fit gives the same fit back, and what this code does not know is refused."""

import json

import pytest

from service.pictures.fit import DRAWING, NONE, RESIZE, VERSIONS, Fit, UnknownFit, default_fit


@pytest.mark.parametrize("fit", [Fit(DRAWING), Fit(DRAWING, share=0.9), Fit(RESIZE), Fit(NONE)], ids=str)
def test_a_record_gives_the_same_fit_back_after_json(fit: Fit) -> None:
    record = json.loads(json.dumps(fit.record()))
    assert Fit.from_record(record) == fit
    assert record["version"] == VERSIONS[fit.method] and ("share" in record) == (fit.method == DRAWING)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "the fit's method expected one of drawing, resize, none, got None"),
        ({"method": "stretch", "version": 1}, "got 'stretch'"),
        ({"method": "resize"}, "the fit resize expected version 1, got None"),
        ({"method": "resize", "version": 2}, "the fit resize expected version 1, got 2"),
        ({"method": "drawing", "version": 1}, "expected a share above 0 and at most 1, got None"),
        ({"method": "drawing", "version": 1, "share": 1.5}, "got 1.5"),
        ({"method": "drawing", "version": 1, "share": float("nan")}, "got nan"),
    ],
)
def test_a_record_of_an_unknown_method_version_or_parameter_is_refused(record: dict[str, object], message: str) -> None:
    with pytest.raises(UnknownFit, match=message):
        Fit.from_record(record)


def test_without_a_record_grey_pictures_are_taken_for_drawings() -> None:
    assert default_fit(1) == Fit(DRAWING) and default_fit(3) == Fit(RESIZE)

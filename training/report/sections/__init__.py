"""The sections of a run's report. Each function returns the values of its macro in sections.html.j2.

    overview.py  key facts, the published model, and how to repeat the run
    samples.py   training, augmented and test images
    results.py   curves, confusion, classes, calibration, robustness
    learned.py   filters, feature maps and the layer table

Not here: how a section that cannot be drawn is replaced (page.py).
"""

"""Evaluation on the test split.

    evaluate.py    accuracy, loss, confusion and calibration
    robustness.py  accuracy on perturbed images

Not here: pictures of these figures (report/), the accuracy gate (experiment.py).
"""

"""Evaluation on the test split.

    evaluate.py  accuracy, loss, confusion, calibration and robustness

Not here: pictures of these figures (report/), the accuracy gate (experiment.py).
"""

"""Runs: the folder of files that each training leaves, and all runs side by side.

    files.py                the names of the files
    run_folder.py           the files of one run
    pins.py                 what a run depends on, and what a resumed run refuses
    load.py                 the trained classifier of a run
    initial_weights.py      the weights of a run or a version, to start from
    lock.py                 which process trains in a folder
    session.py              what surrounds a run: lock, trackers, the message of a failure
    tracking.py             trackers, which show a run elsewhere
    tensorboard_tracker.py  TensorBoard
    mlflow_tracker.py       MLflow
    record.py               what is known of each run, without torch
    table.py                the table of all runs
    groups.py               runs that differ in the seed alone: mean ± deviation

Not here: the content of checkpoints (trainer/), the pages (report/).
"""

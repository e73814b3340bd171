"""Runs: the folder of files that each training leaves.

    run_folder.py  the files of one run
    pins.py        what a run depends on, and what a resumed run refuses
    load.py        the trained classifier of a run
    initial_weights.py  the weights of a run or a version, to start from

Not here: the content of checkpoints (trainer/), the report's page (report/).
"""

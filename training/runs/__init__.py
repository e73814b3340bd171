"""Runs: the folder of files that each training leaves.

    run_folder.py  the files of one run

Not here: the content of checkpoints (trainer/), the report's page (report/).
"""

"""The training job: from a data set to a published model version.

In reading order:

    settings.py    every flag and environment variable
    __main__.py    the command (signals.py, errors.py, summary.py)
    comparison.py  several runs: --seeds, --pooling all
    pipeline.py    all stages, from data to the published version
    experiment.py  what the settings ask for, with data set, network and recipe
    data/          data sets, splits, augmentation
    networks/      the networks, layer for layer, and pooling
    trainer/       the recipe and the training loop
    evaluation/    accuracy and other figures on the test split
    publishing/    the ONNX graph, its proofs, and the model repository
    manifest.py    what a published version says about itself
    runs/          the files that a run leaves (atomic_files.py), and the table of all runs (runs_command.py)
    report/        the pages of one run, of all runs and of a comparison

The service and the job share the files that publishing/publish.py writes and, of code, service/pictures/ alone: how a
picture becomes an image of the network is part of the model.
"""

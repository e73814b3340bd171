"""The training job: from a data set to a published model version.

In reading order:

    settings.py    every flag and environment variable
    __main__.py    the command (signals.py, errors.py, summary.py)
    pipeline.py    all stages, from data to the published version
    preflight.py   what would keep a run from publishing, found before its first epoch
    experiment.py  what the settings ask for, with data set, network and recipe
    data/          data sets, splits, augmentation
    networks/      the networks, layer for layer, and pooling
    trainer/       the recipe and the training loop
    evaluation/    accuracy and other figures on the test split
    publishing/    the ONNX graph, its proofs, and the model repository
    manifest.py    what a published version says about itself
    runs/          the files that a run leaves (atomic_files.py)
    report/        report.html, with pictures of what was learned

The service and the job share the files that publishing/publish.py writes and, of code, service/pictures/, since how a
picture becomes an image of the network is part of the model, and service/models/repository/, since "published" means
that the service takes the version.
"""

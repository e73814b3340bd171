"""The training job: from a data set to a published model version.

The modules in reading order:

    settings.py       every flag and environment variable
    __main__.py       the command (signals.py, errors.py, summary.py)
    pipeline.py       all stages, from data to the published version
    experiment.py     what the settings ask for, with data set, network and recipe
    datasets.py       the named data sets, verified (dataset.py, image_folder.py)
    networks.py       the networks, layer for layer (pooling.py)
    recipe.py         the hyperparameters (augment.py)
    trainer.py        the training loop (device.py, distributed.py, checkpoint.py)
    progress.py       the progress bar
    run_folder.py     the files that a run leaves (atomic_files.py)
    evaluate.py       accuracy and other figures on the test split
    report.py         report.html, with pictures of what was learned
    export.py         the ONNX graph, and the parity check against PyTorch
    golden.py         the answers that every server must reproduce
    file_check.py     the check that a user's own files are answered as their images were
    quantize.py       the 8-bit graph
    manifest.py       what the published version says about itself
    publish.py        the model repository, written atomically

The service and the job share the files that publish.py writes and, of code, service/pictures/ alone: how a picture
becomes an image of the network is part of the model.
"""

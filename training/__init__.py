"""The training job: data in, a published model version out.

A run goes through these stops, in reading order:

    settings.py    every flag and environment variable
    __main__.py    the command (listing.py)
    launch.py      the order of things while it trains
    job.py         what is to be done
    sources.py     images and labels, verified (data.py, folder.py)
    networks.py    what is computed, layer for layer, from raw pixels to probabilities (pooling.py)
    recipe.py      how the weights are found and which are kept (augment.py, group.py)
    runs.py        what a run leaves behind, and how it goes on (files.py, signals.py)
    progress.py    what a person sees meanwhile
    finish.py      the order of things afterwards
    evaluate.py    how good they are
    export.py      the ONNX graph, and the proof that it answers as torch does (quantize.py)
    report.py      pictures of what was learned (layers.py)
    publish.py     the model repository, written atomically

It imports nothing of the service; the files of publish.py are all that the two share.
"""

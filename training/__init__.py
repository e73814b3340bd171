"""The training job: data in, a published model version out.

A run goes through these stops, in reading order:

    settings.py   every flag and environment variable
    data.py       images and labels as whole tensors, verified
    networks.py   what is computed, layer for layer, from raw pixels to probabilities
    recipe.py     how the weights are found and which are kept
    progress.py   what a person sees meanwhile
    export.py     the ONNX graph, and the proof that it answers as torch does
    publish.py    the model repository, written atomically
    __main__.py   the command that joins them

It imports nothing of the service; the files of publish.py are all that the two share.
"""

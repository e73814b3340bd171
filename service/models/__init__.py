"""Model versions: what is on disk, what is loaded, and which of them answers.

    registry.py       what is loaded: look-ups and states
    reconciler.py     makes the registry follow the repository
    routing.py        the labels stable and canary
    loader.py         a version on disk to a version that answers
    verification.py   golden answers, warm-up, how far answers depend on their batch
    config.py         config.pbtxt, read and completed from the graph
    repository.py     the folders and files of a repository

Not here: how batches are formed (batching/) and run (runtime/).
"""

"""Model versions: on disk, loaded, and chosen for a request.

    registry.py       the loaded versions: look-ups, states and readiness
    reconciler.py     makes the registry follow the repository
    selection.py      which versions should answer, and whether they must be loaded
    routing.py        the labels stable and canary
    loader.py         loads and verifies one version
    verification.py   golden answers, warm-up, the difference that batching makes to an answer
    config.py         reads config.pbtxt and completes it from the graph
    labels.py         the class names of outputs
    fingerprint.py    what identifies a version: the content of its files
    scan.py           which folders of a repository are models
    repository.py     the files of a version

Not here: how batches are formed (batching/) and run (runtime/).
"""

"""Model versions: on disk, loaded, and chosen for a request.

    registry.py           the loaded versions: look-ups, states and readiness
    reconciler.py         makes the registry follow the repository
    repository_thread.py  the thread on which the reconciler works, and the calls of model control that wait for it
    selection.py          which versions should answer, and whether they must be loaded
    routing.py            the labels stable and canary
    loader.py             loads and verifies one version
    opened_version.py     a version whose files, graph and configuration agree; whether its rows may share a batch
    verification.py       golden answers, warm-up, the difference that batching makes to an answer
    row_independence.py   without golden answers: whether a row has the same answer alone and in a batch
    trial_rows.py         random rows to try a graph on
    config.py             reads config.pbtxt and completes it from the graph
    unsupported.py        fields of config.pbtxt that are refused or ignored
    checksums.py          hashes in config.pbtxt
    labels.py             the class names of outputs
    graph_files.py        the weight files that a graph names, and content that is no graph
    fingerprint.py        what identifies a version: the content of its files
    scan.py               which folders of a repository are models
    repository.py         the files of a version

Not here: how batches are formed (batching/) and run (runtime/).
"""

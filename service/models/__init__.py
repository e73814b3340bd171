"""Model versions: on disk, loaded, and chosen for a request.

    registry.py           the loaded versions: look-ups and states
    reconciler.py         makes the registry follow the repository
    repository_thread.py  the thread on which the reconciler works, and the calls of model control that wait for it
    routing.py            the labels stable and canary
    loader.py             loads and verifies one version
    verification.py       golden answers, warm-up, the difference that batching makes to an answer
    config.py             reads config.pbtxt and completes it from the graph
    repository.py         the folders and files of a repository

Not here: how batches are formed (batching/) and run (runtime/).
"""

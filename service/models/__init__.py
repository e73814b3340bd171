"""Model versions: on disk, loaded, and chosen for a request.

    registry.py           the loaded versions: look-ups, states and readiness
    reconciler.py         makes the registry follow the repository
    repository_thread.py  the thread on which the reconciler works, and the calls of model control that wait for it
    candidate.py          a version that should answer, and whether it must be loaded
    loader.py             loads and verifies one version
    engine_settings.py    devices and batching policy, from the configuration
    verification/         whether a version's answers are right
    repository/           what is on disk

Not here: how batches are formed (batching/) and run (runtime/).
"""

"""Requests to batches to answers, for one model version.

    batcher.py       admission, when a batch starts, and the engines' threads
    queue.py         what waits, in which order, and which requests form the next batch
    execution.py     runs a batch, splits its outputs, isolates failures
    sequencer.py     keeps answers in order (`preserve_ordering`)
    statistics.py    what happened, counted once a batch
    predictions.py   what was answered: classes and confidence

Not here: what an engine is (any core.spec.Backend) and what requests and answers look like on the wire.
"""

"""Dynamic batching of one model version: queue requests, form batches, run them, split the outputs.

    scheduler.py     the rules: admission, when a batch starts and on which engine; no thread, no clock
    queue.py         pending requests, their order, and batch composition
    batcher.py       the threads that do what the scheduler decides
    execution.py     runs a batch, splits its outputs, isolates failures
    sequencer.py     keeps responses in batch order (`preserve_ordering`)
    statistics.py    counters and histograms of requests and batches
    predictions.py   counts of predicted classes and their confidence

Not here: running a graph (runtime, behind core.spec.Backend), the format of requests and responses (inference).
"""

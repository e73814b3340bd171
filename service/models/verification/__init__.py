"""Whether a version's answers are right, before it serves.

    opened_version.py     a version whose files, graph and configuration agree; whether its rows may share a batch
    verifier.py           golden answers, warm-up, the difference that batching makes to an answer
    golden_pictures.py    golden pictures: files are decoded and fitted as the training job did
    row_independence.py   without golden answers: whether a row has the same answer alone and in a batch
    trial_rows.py         random rows to try a graph on

Not here: reading the golden answers (repository/version_files.py), the batches of requests (batching/).
"""

"""The model repository on disk, which has Triton's layout: an edge, like the wire.

    scan.py            which folders are models, and their versions
    fingerprint.py     what identifies a version: the content of its files
    config.py          reads config.pbtxt and completes it from the graph
    engine_fields.py   fields of config.pbtxt that engines and batches follow, and their limits
    unsupported.py     fields of config.pbtxt that are refused or ignored
    checksums.py       hashes in config.pbtxt
    selection.py       the versions that config.pbtxt selects
    routing.py         the labels stable and canary
    labels.py          the class names of outputs
    version_files.py   the files of a version
    manifest.py        what the training job says of a version
    golden_file.py     the golden samples and golden pictures of a version
    fit_record.py      the fit that a version records: how pictures become its images
    graph_files.py     the weight files that a graph names, and content that is no graph
    acceptance.py      whether the service takes a version, before it runs

The training job applies acceptance.py to what it publishes, so nothing here needs gRPC, structlog or ONNX Runtime. Not
here: which versions are loaded (registry.py), whether their answers are right (verification/).
"""

"""The words that all layers share: plain data, no threads, no I/O but the tokens file.

spec.py          what a model takes and returns; outputs; the Backend protocol
datatypes.py     element types under all their names
batch_sizes.py   the sizes that batches are padded to
errors.py        every error, with its gRPC status
auth.py          tokens and their rights
logs.py          structured logs
version.py       version and commit
"""

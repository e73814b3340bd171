"""Tests, the demonstration, benchmarks and soaks. All that they call is on this machine.

Behind a company's proxy, urllib, gRPC and other people's clients would ask the proxy for it, unless these variables,
which they read, list it before any of them starts.
"""

import os

_NAMES = ("no_proxy", "NO_PROXY", "no_grpc_proxy")
_LISTED = sorted({host for name in _NAMES for host in os.environ.get(name, "").split(",")} - {""})
os.environ.update(dict.fromkeys(_NAMES, ",".join(["127.0.0.1", "localhost", "::1", *_LISTED])))

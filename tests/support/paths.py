"""The checkout's folders, and the names of the gRPC servers."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
GRPC_SERVERS = ("native", "aio")

"""Where things are, and which gRPC servers there are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
GRPC_SERVERS = ("native", "aio")

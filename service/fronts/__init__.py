"""The wire. Two fronts over one core: `native` for speed, `grpcio` for everything.

`grpcio` serves every method, on a TCP port or a Unix socket. `native` serves ModelInfer outside the GIL and passes all
else through to a `grpcio` front on a Unix socket, so that there is one implementation of those methods.
"""

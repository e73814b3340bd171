"""The wire: bytes, calls, deadlines, cancellation and statuses. Servicers convert, call and convert back.

    grpc/   two gRPC servers and the servicers behind them
    http/   /metrics and probes
    tls.py  certificates of both

Not here: what a tensor or an image means (inference/).
"""

"""Helpers that tests share, one module for each purpose.

    local_service.py   a whole service in this process, and a gate in front of its engines
    processes.py       the service and the commands as processes
    models.py          toy models, repositories of them, and configurations
    loading.py         loading the only model of a repository
    batching.py        engines and requests for tests of batching
    training.py        short training runs, a checkpoint store in memory, random images, a toy artifact
    gpu.py             stand-ins for GPUs
    requests.py        requests and responses as arrays
    http.py            GET requests
    tokens.py          tokens and the lines of a tokens file
    certificates.py    an authority and its certificates
    terminator.py      Envoy, which ends TLS in front of a service
    proxy.py           an HTTP proxy that records what it is asked
    refusal.py         the error of a call
    spec.py            model specifications
    images.py          images as users take them
    data.py            the full MNIST, if it is at hand
    waiting.py         waiting for a condition
    paths.py           the checkout's folders, and the names of the gRPC servers

Not here: fixtures (conftest.py).
"""

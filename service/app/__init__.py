"""Composition and process life: builds the service from its settings, starts and stops it.

    settings.py         every flag and environment variable
    startup.py          what the settings ask for, checked against this machine
    exposure.py         who can reach the ports, and which gRPC server may stand there
    credentials.py      tokens and certificates, read again when their files change
    server.py           one service from start to stop
    grpc_servers.py     its gRPC servers: opened, left by clients, closed
    served_models.py    the versions it loaded, until their last request is answered
    process.py          that service as a process: signals and exit
    supervisor.py       several workers on one port
    worker.py           one of them, as the supervisor sees it
    worker_process.py   one of them, as it runs
    forkserver.py       the process that forks them
    check.py            `python -m service check`: verify a model without serving it

Not here: the handling of requests (transport/ and the layers below it).
"""

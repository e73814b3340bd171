"""Composition and process life: builds the service from its settings, starts and stops it.

    settings.py     every flag and environment variable
    startup.py      what the settings ask for, checked against this machine
    server.py       one service from start to exit
    supervisor.py   several workers on one port
    worker.py       one of them
    check.py        `python -m service check`: verify a model without serving it

Not here: the handling of requests (transport/ and the layers below it).
"""

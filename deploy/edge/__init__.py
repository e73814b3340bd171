"""The edge: Envoy, its configuration, and what it does not do by itself, on Python's standard library alone.

    python -m edge                 fill in the configuration, run Envoy, watch the certificate, drain on SIGTERM
    python -m edge health          exit with status 0 if clients are served, else 1 with the reason
    python -m edge check           fill in the configuration only, and say whether Envoy accepts it
    python -m edge render FOLDER   fill in the configuration only, for `envoy -c FOLDER/envoy.yaml`

Envoy reads no environment, exits at once on SIGTERM, and starts with a certificate that it cannot read.
In reading order:

    envoy.yaml, listener.yaml, cluster.yaml    what Envoy does with a connection and a call
    plaintext.yaml, tls.yaml, mutual-tls.yaml  the listener's transport socket, one of the three
    descriptors.pb                             our protocol for JSON callers; `make stubs` writes it
    settings.py        the environment
    configuration.py   the YAML files with the settings filled in, checked by Envoy
    certificate.py     the certificate's files, checked and handed to Envoy
    process.py         Envoy's life: start, reload, drain, stop
    health.py          the container's health check
    files.py           files that are replaced whole
    errors.py          WrongSetting

README.md in deploy/ lists the variables. Not here: the service, which imports nothing of this.
"""

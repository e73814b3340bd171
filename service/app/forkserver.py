"""Imported by the process that forks workers, and by no other: it ignores the signals that stop a service.

A signal to a process group or a cgroup (`timeout`, systemd) reaches that process too. It must outlive the workers,
whose exit statuses it passes on; it exits when the supervisor and all workers have. A worker ignores these signals
until its server handles them. Not here: which workers are started (supervisor.py).
"""

import signal

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)

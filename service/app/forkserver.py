"""Imported by the process that forks workers, and by no other: which signals it ignores, and how it ends.

A signal to a process group or a cgroup (`timeout`, systemd) reaches that process too. It must outlive the workers,
whose exit statuses it passes on; it exits when the supervisor and all workers have. A worker ignores these signals
until its server handles them. When the supervisor is killed, workers stop by themselves; those that hang end with this
process, ORPHANED_SECONDS later. Not here: which workers are started (supervisor.py).
"""

import signal

from service.app.worker_process import signal_on_death_of_parent

ORPHANED_SECONDS = 10

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, lambda *_: signal.alarm(ORPHANED_SECONDS))  # SIGALRM ends the process
signal_on_death_of_parent(signal.SIGUSR1)

"""Long runs under load, started by hand: the targets of make whose name starts with `soak`."""

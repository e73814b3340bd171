"""Long runs under load, by hand: `make soak-reload`, `make soak-restart`, `make soak-overload`, `make soak-storm`."""

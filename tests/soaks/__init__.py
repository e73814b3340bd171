"""Long runs under load, started by hand: `make soak-reload`, `soak-restart`, `soak-overload`, `soak-deadlines`,
`soak-fleet`."""

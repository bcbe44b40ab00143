"""What shannot costs, measured beside what it replaces. `make bench` runs all of it."""

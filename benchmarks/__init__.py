"""Engram measured beside what its users would pick instead. `make bench` runs everything."""

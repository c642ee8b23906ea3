"""The benchmarks: `python -m benchmarks` (or `make bench`); see README.md beside this file."""

"""ttbert and its peers on the same bytes, in turn, in one run: `python -m benchmarks load`."""

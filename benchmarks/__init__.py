"""The benchmarks: `make bench`; docs/performance.md tells what they measure and shows a run."""

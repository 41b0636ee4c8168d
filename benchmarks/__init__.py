"""What measures. `python -m benchmarks` runs everything and writes the tables of docs/performance.md."""

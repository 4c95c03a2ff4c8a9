"""What a method is compared with: for benchmarks and tests only."""

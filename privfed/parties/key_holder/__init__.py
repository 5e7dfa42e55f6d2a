"""The key holder: round keys, sums, nothing else."""

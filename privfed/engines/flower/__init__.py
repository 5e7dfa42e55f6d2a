"""Flower carries the bytes: what is installed by the extra `privfed[flower]`, and nothing else."""

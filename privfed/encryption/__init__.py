"""Floats as bounded integers in the slots of ciphertexts; sums of residues without a native library."""

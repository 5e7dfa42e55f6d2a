"""Floats as bounded integers in slots of ciphertexts; sums of residues without native code."""

"""Secret keys, encryption and decryption: the one place that imports TenSEAL."""

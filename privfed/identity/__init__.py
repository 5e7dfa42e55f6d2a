"""Who takes part: the keys of a party, and the signed roster that pins the keys of all."""

"""What the parties say to each other: envelopes, signatures, contributions, streams."""

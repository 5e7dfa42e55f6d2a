"""From ledgers to a report that a privacy officer can read."""

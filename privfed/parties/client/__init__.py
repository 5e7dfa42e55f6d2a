"""One client: its records, its ledger, its noise, its update."""

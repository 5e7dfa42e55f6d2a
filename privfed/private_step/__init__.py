"""The private step: what one client does within one round."""

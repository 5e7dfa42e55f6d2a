"""From public sizes and a budget to rounds, batches and noise, before anything is spent."""

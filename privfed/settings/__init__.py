"""What can be chosen: training and privacy, encryption."""

"""What a budget allows, on the safe side: noise, steps, batches, and curves of what would be.

Every number returned was confirmed by `certified.epsilon`, the function that admission and reports
use: it is within the budget, and the next one that was tried is not.
"""

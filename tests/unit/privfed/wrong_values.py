"""Values that no setting of their kind may have."""

NO_NUMBER = [True, "1", [1.0], 1j]
NOT_POSITIVE = [0, 0.0, -1.0, float("nan"), float("inf"), -float("inf"), 10**400, *NO_NUMBER]
NO_COUNT = [0, -1, 1.0, 2.5, True, "3", None, float("nan")]
NO_FLOAT32 = [1e-300, 1e-40, 1e40, 1e300]

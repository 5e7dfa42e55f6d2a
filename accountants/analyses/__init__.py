"""How a number is computed; users meet `certified`, `calibration` and `odometer` instead."""

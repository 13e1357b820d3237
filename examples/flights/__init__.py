"""NYC flights of 2013: a year of real requests, real labels and real drift (the jet stream)."""

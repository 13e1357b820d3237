"""Whether a window differs from the reference: counts, tests, detectors and causes."""

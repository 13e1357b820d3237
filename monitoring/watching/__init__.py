"""One model's monitor: drift, quality, labels and estimates become findings."""

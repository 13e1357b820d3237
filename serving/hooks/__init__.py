"""What other programs tell us: alerts of an Alertmanager, and versions that were trained elsewhere."""

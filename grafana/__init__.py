"""Dashboards made from the metric catalogue, and their way into a Grafana server."""

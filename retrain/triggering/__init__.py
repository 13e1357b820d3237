"""When to retrain: schedule, harm, volume, requests, and what holds them."""

"""What would have happened: history replayed under several policies of retraining, with real delays of labels."""

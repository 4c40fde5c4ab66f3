"""What a run changed, as values and as text."""

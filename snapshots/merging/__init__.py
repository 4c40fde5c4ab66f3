"""What becomes real: plans, conflicts, choices, the merge itself, and taking it back."""

"""What several tests need: trees to work on, an ordinary user to be, and the search for what a test left behind."""

"""What happened in a run, in order: the journal and all that is read from it."""

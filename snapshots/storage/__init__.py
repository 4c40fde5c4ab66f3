"""What a store consists of on disk: the database, objects, runs, uppers, effects, and the locks on them."""

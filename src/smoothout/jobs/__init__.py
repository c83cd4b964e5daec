"""Jobs and where they run: find a record, or train, analyze and write it."""

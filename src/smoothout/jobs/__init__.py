"""Jobs and the machine they run on: find a record, or train, analyze and write one."""

"""Where workers run, when not in this process; one executor a file."""

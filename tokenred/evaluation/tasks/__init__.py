"""The tasks that ship with tokenred, one a file."""

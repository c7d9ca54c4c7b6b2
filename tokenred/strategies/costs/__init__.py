"""Cost terms: what moving a source to an anchor costs."""

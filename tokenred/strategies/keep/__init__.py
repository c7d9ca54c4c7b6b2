"""Keep rules across frames: a score for every source, and a decision on the scores."""

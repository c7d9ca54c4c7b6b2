"""Layer reducers: where in the LLM tokens are dropped or merged, and how many."""

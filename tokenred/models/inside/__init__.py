"""Between the layers of the LLM: reducers, cache pruners, and a cache that stays consistent."""

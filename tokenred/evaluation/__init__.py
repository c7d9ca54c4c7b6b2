"""Tasks, the ablation runner, results that survive, and statistics that pair."""

"""Tasks, the ablation runner, the result store, and paired statistics."""

"""Cache pruners: which cached tokens the later layers look at while the answer is written."""

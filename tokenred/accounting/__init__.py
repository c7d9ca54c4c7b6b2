"""What a run costs, counted: named FLOPs formulas."""

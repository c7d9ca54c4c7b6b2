"""How the anchors of a stage are divided among the frames."""

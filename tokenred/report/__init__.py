"""Reports of a run: terminal, Markdown, HTML, LaTeX, CSV and JSON."""

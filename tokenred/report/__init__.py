"""What people read: tables for the terminal, Markdown, JSON and CSV."""

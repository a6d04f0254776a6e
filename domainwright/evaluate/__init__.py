"""One file per exam, and what was forgotten."""

"""The command line: one file per verb. It shows, it never computes."""

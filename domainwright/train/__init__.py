"""One loop: pre-flight checks, loss head, optimiser, schedule, checkpoints."""

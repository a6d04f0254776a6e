"""Likelihoods and greedy answers from a base, with whatever adapter hangs on it."""

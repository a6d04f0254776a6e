"""Raw text to rows: read files of many formats, find copies, split without leaks.

read        one file to rows, and what was set aside with a reason
pipeline    files to a dataset that is clean, redacted and accounted for
split       train, dev and test that share no group and no near-duplicate
overlap     which test rows a training set gives away
dataset     the artifact folder that holds the parts
"""

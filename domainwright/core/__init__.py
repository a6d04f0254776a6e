"""The nouns everyone shares: errors, records, settings, artifacts, seeds, progress."""

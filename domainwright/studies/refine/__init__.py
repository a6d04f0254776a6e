"""A finished run made better: errors named, data proposed, a challenger trained and judged."""

"""Published claims, measured on small models and real domains."""

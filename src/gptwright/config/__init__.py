"""Settings: read, checked and explained, without torch."""

"""Published designs under their own names: thin faces over the one engine."""

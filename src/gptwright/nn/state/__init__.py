"""Decode states: what a layer remembers between calls. Born in a component, owned by the caller."""

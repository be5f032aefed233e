"""Language models: the interface, its implementations, adapters, and presets on disk."""

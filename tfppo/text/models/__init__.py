"""Language models: the interface, its implementations and adapters."""

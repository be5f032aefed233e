"""Data and models that are part of the package; NOTICE names their sources and licenses."""

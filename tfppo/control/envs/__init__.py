"""Environments: in-graph ones, Gymnasium's vector environments, and their snapshots."""
